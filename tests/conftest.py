from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kdrun.config.compose import Composer


@pytest.fixture(scope="session")
def compose() -> Callable[..., dict[str, Any]]:
    """Composes overrides given as words: compose("method=kd", "seed=1"); files are read once per session."""
    composer = Composer()
    return lambda *overrides: composer.compose(overrides)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the tests, and the processes that they start, out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDRUN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
