"""The blob store: bytes by their SHA-256, counted references, collection of what nobody holds."""

from aslconvert.workers.storage.base import Blob, BlobStore
from aslconvert.workers.storage.catalogue import Blobs
from aslconvert.workers.storage.local import LocalBlobs
from aslconvert.workers.storage.places import open_blobs
from aslconvert.workers.storage.references import held_by, hold, release

__all__ = ["Blob", "BlobStore", "Blobs", "LocalBlobs", "held_by", "hold", "open_blobs", "release"]
