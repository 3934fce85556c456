"""The errors: what each is besides, what it says, and that it goes through pickle."""

from __future__ import annotations

import errno
import inspect
import pickle

import pytest

from hyperpq import errors

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.HyperPQError)
]
SENTENCE = "/index: there is no index here; check the path."


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_its_sentence(kind):
    error = kind(SENTENCE)
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert type(one) is kind
        assert str(one) == SENTENCE
        assert one.args == (SENTENCE,)
        assert getattr(one, "errno", None) is None
    with pytest.raises(errors.HyperPQError, match="there is no index"):
        raise error


def test_errors_of_the_store_are_errors_of_the_system():
    assert issubclass(errors.StoreError, OSError)
    assert issubclass(errors.IndexNotFoundError, FileNotFoundError)
    assert not issubclass(errors.CorruptIndexError, FileNotFoundError)
    for kind in CLASSES:
        assert issubclass(kind, OSError) == issubclass(kind, errors.StoreError)


def test_the_number_of_the_system_stays():
    error = errors.StoreError("/index: cannot write: No space left on device.")
    error.errno = errno.ENOSPC
    error.extra = "kept"
    again = pickle.loads(pickle.dumps(error))
    assert again.errno == errno.ENOSPC
    assert again.extra == "kept"
    assert str(again) == str(error) == "/index: cannot write: No space left on device."
