from __future__ import annotations

import pytest
from tiny import COMPOSER

from kdrun.config.suggest import FIELD
from kdrun.errors import ConfigError

METHODS = COMPOSER.options.names("method")
OTHERS = sorted(FIELD - set(METHODS))


def message(name: str) -> str:
    with pytest.raises(ConfigError) as refused:
        COMPOSER.compose([f"method={name}"])
    return str(refused.value)


@pytest.mark.parametrize("name", OTHERS)
def test_no_method_of_the_field_is_taken_for_another(name: str) -> None:
    text = message(name)
    assert text.startswith(f"method: no option {name!r} (kdrun ls method lists all ")
    assert "did you mean" not in text


@pytest.mark.parametrize(
    ("slip", "meant"),
    [("dkdd", "dkd"), ("fitnetz", "fitnets"), ("logit_sdt", "logit_std"), ("tfkd_sefl", "tfkd_self"), ("DKD", "dkd")],
)
def test_a_slip_of_the_pen_is_corrected(slip: str, meant: str) -> None:
    assert message(slip).endswith(f"; did you mean {meant!r}?")


@pytest.mark.parametrize("word", ["Logit-Std", "FitNets", "NKD", "WSLD"])
def test_a_name_as_papers_write_it_leads_to_the_method(word: str) -> None:
    assert message(word).endswith(f"; did you mean {word.lower().replace('-', '_')!r}?")


def test_a_paper_spells_no_option_of_another_group() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        COMPOSER.compose(["schedule=cosin"])
