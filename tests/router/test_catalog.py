"""Names to models: what the config file says, what tools registered, and where an alias points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import InputError, NotFound
from agentd.router.catalog import Catalog
from agentd.sdk import Alias, Model
from agentd.store import Store
from agentd.store.catalog import CatalogTable
from agentd.store.journal import Journal

BIG = Model(name="big", kind="frontier", endpoint="http://127.0.0.1:1/v1", key_env="BIG_KEY")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "agentd.db")
    yield store
    store.close()


@pytest.fixture
def catalog(store: Store) -> Catalog:
    catalog = Catalog(CatalogTable(store), Journal(store), [BIG])
    for name in ("small", "tuned"):
        catalog.put(Model(name=name, kind="local", path=Path("/models") / name))
    return catalog


def test_configured_and_registered_models_are_one_list(catalog: Catalog) -> None:
    assert [model.name for model in catalog.list()] == ["big", "small", "tuned"]
    assert catalog.get("small").path == Path("/models/small")


def test_a_configured_model_cannot_be_overwritten(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="'big' is defined in the config file"):
        catalog.put(Model(name="big", kind="local"))


def test_an_unknown_model_is_answered_with_the_nearest_name_aliases_too(catalog: Catalog) -> None:
    catalog.set_alias(Alias(name="support", weights={"small": 1}))
    with pytest.raises(NotFound, match="Did you mean 'support'"):
        catalog.get("suport")


def test_an_empty_catalog_says_how_to_get_a_model(store: Store) -> None:
    with pytest.raises(NotFound, match="agentd call get_model"):
        Catalog(CatalogTable(store), Journal(store)).get("small")


def test_an_alias_moves_and_the_journal_remembers_from_where(catalog: Catalog, store: Store) -> None:
    catalog.set_alias(Alias(name="support", weights={"big": 1}, reason="first"))
    catalog.set_alias(Alias(name="support", weights={"tuned": 1}, reason="not worse"))
    model, why = catalog.resolve("support")
    assert model.name == "tuned"
    assert why == "alias 'support' points at 'tuned' (not worse)"
    assert Journal(store).tail(1)[0].data["before"] == {"big": 1}


@pytest.mark.parametrize(
    "weights", [{}, {"small": 0.0}, {"small": -1.0, "big": 2.0}, {"small": float("nan")}]
)
def test_shares_that_add_up_to_nothing_are_refused(catalog: Catalog, weights: dict[str, float]) -> None:
    with pytest.raises(InputError, match="needs a share above 0"):
        catalog.set_alias(Alias(name="support", weights=weights))


def test_an_alias_to_a_model_that_is_not_there_is_refused(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="Did you mean 'tuned'"):
        catalog.set_alias(Alias(name="support", weights={"tund": 1}))
    assert catalog.alias("support") is None


def test_a_name_is_a_model_or_an_alias_never_both(catalog: Catalog) -> None:
    catalog.set_alias(Alias(name="support", weights={"small": 1}))
    with pytest.raises(InputError, match="already an alias"):
        catalog.put(Model(name="support", kind="local"))
    with pytest.raises(InputError, match="is the name of a model"):
        catalog.set_alias(Alias(name="small", weights={"big": 1}))


def test_shares_are_kept(catalog: Catalog) -> None:
    catalog.set_alias(Alias(name="support", weights={"big": 3, "tuned": 1}))
    drawn = Counter(catalog.resolve("support", draw=n / 100)[0].name for n in range(100))
    assert drawn == {"big": 75, "tuned": 25}
    assert "with weight 25%" in catalog.resolve("support", draw=0.99)[1]
