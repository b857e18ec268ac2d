"""Names that end up in generated Python or as attributes of a module: plain identifiers, none with a meaning."""

from __future__ import annotations

import keyword
import re
from typing import TypeGuard

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
# A hyphen is none of Python, but modules in a dict may have it in their keys.
_PART = re.compile(r"[A-Za-z0-9_-]+\Z", re.ASCII)

_TAKEN = """
NoneType _operator builtins device fx_pytree getattr inf math nan operator pytree self torch
"""
TAKEN = frozenset(_TAKEN.split())
"""What the code that torch generates from a graph refers to by itself."""

_ATTRIBUTES = """
T_destination _apply _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl _forward_hooks
_forward_pre_hooks _load_from_state_dict _modules _non_persistent_buffers_set _parameters _save_to_state_dict
_state_dict_hooks _version add_module apply bfloat16 buffers call_super_init children compile cpu cuda double
dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu
load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters
register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
set_submodule share_memory state_dict to to_empty train training type xpu zero_grad
"""
ATTRIBUTES = frozenset(_ATTRIBUTES.split())
"""Of every module of torch: no parameter or submodule of a real model can be called so."""


def is_identifier(name: object, most: int) -> TypeGuard[str]:
    """Whether a value of the graph may be called so."""
    return (
        isinstance(name, str)
        and len(name) <= most
        and _IDENTIFIER.match(name) is not None
        and not name.startswith("__")
        and not keyword.iskeyword(name)
        and name not in TAKEN
    )


def is_dotted(name: object, most: int) -> TypeGuard[str]:
    """Whether a parameter, buffer or submodule may be called so, such as ``layer1.0.conv.weight``."""
    if not isinstance(name, str) or not 0 < len(name) <= most:
        return False
    parts = name.split(".")
    return all(_PART.match(part) and not part.startswith("__") and part not in ATTRIBUTES for part in parts)
