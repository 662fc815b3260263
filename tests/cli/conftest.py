"""Fixtures for the command line's tests."""

import pytest

from tunesmith.assets import sample


@pytest.fixture
def tickets() -> str:
    """The path of the ticket sample."""
    return str(sample("tickets"))
