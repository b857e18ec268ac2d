"""Prints a CycloneDX list of what this Python and this Debian have installed; docker/sbom.sh runs it in an image."""

import datetime
import importlib.metadata
import json
import pathlib
import re
import sys
import urllib.parse
import uuid

STATUS = pathlib.Path("/var/lib/dpkg/status")
RELEASE = pathlib.Path("/etc/os-release")


def python_packages():
    """Every distribution that this interpreter can import, as components."""
    for one in importlib.metadata.distributions():
        name, version = one.metadata["Name"], one.version
        purl = f"pkg:pypi/{quoted(re.sub(r'[-_.]+', '-', name).lower())}@{quoted(version)}"
        yield component(name, version, purl, one.metadata["License-Expression"])


def debian_packages():
    """Every package that dpkg has installed, as components."""
    if not STATUS.exists():
        return
    fields = dict(line.split("=", 1) for line in RELEASE.read_text().splitlines() if "=" in line)
    distribution, release = (fields.get(name, "").strip('"') for name in ("ID", "VERSION_ID"))
    for paragraph in STATUS.read_text(encoding="utf-8").split("\n\n"):
        # A continued line begins with a space; none of those that are read here is continued.
        told = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" "))
        if told.get("Status", "").endswith(" installed"):
            name, version, architecture = told["Package"], told["Version"], told["Architecture"]
            purl = f"pkg:deb/{distribution}/{quoted(name)}@{quoted(version)}?arch={architecture}"
            yield component(name, version, f"{purl}&distro={distribution}-{release}")


def component(name, version, purl, licence=None):
    """One entry of the list."""
    found = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return found | ({"licenses": [{"expression": licence}]} if licence else {})


def quoted(text):
    """As package URLs write it."""
    return urllib.parse.quote(text, safe="")


def bom(image, digest):
    """The whole document."""
    parts = {part["bom-ref"]: part for part in [*python_packages(), *debian_packages()]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "component": {"type": "container", "bom-ref": image, "name": image, "version": digest},
        },
        "components": [parts[key] for key in sorted(parts)],
    }


if __name__ == "__main__":
    print(json.dumps(bom(*sys.argv[1:3]), indent=1))
