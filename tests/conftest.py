from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdrun.config.compose import Composer


@pytest.fixture(scope="session")
def compose() -> Callable[..., dict[str, Any]]:
    """Composes overrides given as words: compose("method=kd", "seed=1"); files are read once per session."""
    composer = Composer()
    return lambda *overrides: composer.compose(overrides)
