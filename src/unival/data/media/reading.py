"""What decoders of other libraries complain of, in one voice."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import UnidentifiedImageError

from unival.errors import UserError


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """What a decoder complains of, as a UserError.

    Parsers of other libraries meet arbitrary bytes here and fail with whatever their code happens to raise
    (struct.error, RuntimeError, AttributeError, ...), so every Exception is caught.

    Raises:
        UserError: whatever was raised inside, with `name` and its reason.
    """
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        raise UserError(f"{name}: not {what}: no known format of images") from error
    except Exception as error:
        reason = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
        raise UserError(f"{name}: not {what}: {reason.splitlines()[0][:200]}") from error
