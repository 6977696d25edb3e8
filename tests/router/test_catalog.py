"""Names to models: what the config file says, what tools registered, and where an alias points."""

from __future__ import annotations

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
    alias = catalog.alias("support")
    assert alias is not None
    assert (alias.weights, alias.reason) == ({"tuned": 1}, "not worse")
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


def test_an_alias_keeps_how_it_chooses(catalog: Catalog, store: Store) -> None:
    wanted = Alias(
        name="support",
        weights={"big": 3, "tuned": 1},
        fallbacks=("small",),
        choose="cheapest",
        good_enough=0.8,
        suites={"*": "tickets"},
        shadow={"small": 0.1},
        cache_s=60,
    )
    catalog.set_alias(wanted)
    assert Catalog(CatalogTable(store), Journal(store), [BIG]).alias("support") == wanted


def test_an_alias_of_the_config_file_wins_and_stays(store: Store) -> None:
    configured = Alias(name="support", weights={"big": 1})
    catalog = Catalog(CatalogTable(store), Journal(store), [BIG], [configured])
    assert catalog.aliases() == [configured]
    with pytest.raises(InputError, match="'support' is defined in the config file"):
        catalog.set_alias(Alias(name="support", weights={"big": 2}))


def test_an_alias_that_cannot_be_meant_is_refused(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="on which suite"):
        catalog.set_alias(Alias(name="a", weights={"big": 1}, choose="cheapest", good_enough=0.9))
    with pytest.raises(InputError, match="above 0 and at most 1"):
        catalog.set_alias(Alias(name="a", weights={"big": 1}, shadow={"small": 2}))
    with pytest.raises(InputError, match=r"agentd\.toml calls both"):
        Catalog(catalog._table, catalog._journal, [BIG], [Alias(name="big", weights={"small": 1})])
