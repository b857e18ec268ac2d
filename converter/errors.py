"""Every error this project raises on purpose.

AslconvertError
├── UserError                 the caller can mend it
│   ├── UsageError            exit 2: options or data that do not fit
│   ├── ModelRefused          exit 3: the file or factory is not a model that can be taken
│   ├── NothingToConvert      exit 4: no site can be rewritten; every site says why
│   ├── TargetNotReached      exit 5: the asked accuracy or speed is out of reach; the best found is written
│   └── VerificationFailed    exit 6: an artifact does not reproduce its variant
├── InfrastructureError       disk, memory, a missing part; worth trying again elsewhere (exit 70)
└── InternalError             a defect of ours (exit 71)
"""

from __future__ import annotations


class AslconvertError(Exception):
    """Base: ``code`` is stable for machines, the message says what, where and what to do."""

    exit_code = 71
    kind = "internal"

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message if not hint else f"{message} {hint}")
        self.code = code
        self.message = message
        self.hint = hint


class UserError(AslconvertError):
    """The caller can mend it."""

    exit_code = 2
    kind = "user"


class UsageError(UserError):
    """Options, shapes or data that do not fit the model."""


class ModelRefused(UserError):
    """The given file or factory is not a model that can be taken."""

    exit_code = 3


class NothingToConvert(UserError):
    """No convolution of the model can be rewritten."""

    exit_code = 4


class TargetNotReached(UserError):
    """The asked accuracy or speed could not be reached; the best found was written."""

    exit_code = 5


class VerificationFailed(UserError):
    """A written artifact does not reproduce the variant it stands for."""

    exit_code = 6


class InfrastructureError(AslconvertError):
    """Disk, memory or a missing part failed; nothing is wrong with the input."""

    exit_code = 70
    kind = "infrastructure"


class InternalError(AslconvertError):
    """A defect of this project."""
