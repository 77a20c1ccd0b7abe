"""The page about exactness lists today's features, each with an error that is allowed."""

from types import ModuleType

from support.features import FEATURES


def test_the_page_lists_what_is_measured(measured: ModuleType) -> None:
    errors = measured.results()["exactness"]["errors"]
    assert list(errors) == [feature.name for feature in FEATURES]
    assert all(0 <= errors[feature.name] <= feature.tolerance for feature in FEATURES)
