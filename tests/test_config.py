"""Where settings come from, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.config import load_config
from agentd.errors import DataError, InputError


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment whose usual folders are the test's own."""
    names = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
    return {name: str(tmp_path / name.lower()) for name in names}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agentd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_the_defaults_hold(env: dict[str, str], tmp_path: Path) -> None:
    config = load_config(env=env)
    assert config.state_dir == tmp_path / "xdg_state_home/agentd"
    assert config.cache_dir == tmp_path / "xdg_cache_home/agentd"
    assert (config.policy, config.server.host, config.server.port) == ("default", "127.0.0.1", 8731)


def test_a_file_in_the_current_folder_is_not_taken_up(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, 'policy = "unattended"')
    monkeypatch.chdir(tmp_path)
    assert load_config(env=env).policy == "default"


def test_the_file_in_the_usual_place_is_read(env: dict[str, str], tmp_path: Path) -> None:
    usual = tmp_path / "xdg_config_home/agentd"
    usual.mkdir(parents=True)
    written(usual, 'policy = "unattended"\n[budget]\nper_day_usd = 2.5')
    config = load_config(env=env)
    assert (config.policy, config.budget.per_day_usd) == ("unattended", 2.5)


def test_the_environment_goes_over_the_file_and_the_command_line_over_both(
    env: dict[str, str], tmp_path: Path
) -> None:
    path = written(tmp_path, 'policy = "a"\n[server]\nport = 1\norigins = ["http://here"]')
    env |= {"AGENTD_CONFIG": str(path), "AGENTD_PORT": "2", "AGENTD_POLICY": "b", "AGENTD_OFFLINE": "1"}
    config = load_config(env=env)
    assert (config.server.port, config.policy, config.offline) == (2, "b", True)
    assert config.server.origins == ("http://here",)
    assert load_config(env=env, port=3, policy=None).server.port == 3


def test_paths_in_the_file_start_from_the_file(env: dict[str, str], tmp_path: Path) -> None:
    path = written(tmp_path, 'state_dir = "s"\ncache_dir = "c"\nroots = ["mine"]\npolicy = "rules/a.yaml"')
    config = load_config(path, env)
    assert config.state_dir == tmp_path / "s"
    assert config.cache_dir == tmp_path / "c"
    assert config.roots == (tmp_path / "mine",)
    assert config.policy == str(tmp_path / "rules/a.yaml")


def test_an_unknown_field_is_named_with_the_ones_there_are(env: dict[str, str], tmp_path: Path) -> None:
    path = written(tmp_path, 'polices = "open"')
    with pytest.raises(DataError, match=r"agentd\.toml: polices: .*Known fields: state_dir") as caught:
        load_config(path, env)
    assert caught.value.field == "polices"


def test_a_wrong_value_is_named_with_its_field(env: dict[str, str], tmp_path: Path) -> None:
    path = written(tmp_path, "[server]\nport = 70000")
    with pytest.raises(DataError, match=r"agentd\.toml: server\.port: .*70000"):
        load_config(path, env)


def test_a_wrong_variable_is_not_blamed_on_the_file(env: dict[str, str], tmp_path: Path) -> None:
    path = written(tmp_path, 'policy = "open"')
    with pytest.raises(DataError, match=r"^environment or command line: server\.port: .*'many'"):
        load_config(path, env | {"AGENTD_PORT": "many"})


def test_a_server_that_is_no_table_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="server: "):
        load_config(written(tmp_path, "server = 8731"), env, port=1)


def test_broken_toml_and_a_missing_file_are_told_apart(env: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not valid TOML.*line 2"):
        load_config(written(tmp_path, "offline = true\npolicy = ]\nx = 1\n"), env)
    with pytest.raises(InputError, match=r"nowhere\.toml' cannot be read"):
        load_config(tmp_path / "nowhere.toml", env)


def test_an_identity_is_one_persons_only(env: dict[str, str], tmp_path: Path) -> None:
    path = written(tmp_path, '[people]\nann = ["user:ann", "slack:U1"]\nbob = ["slack:U1"]')
    with pytest.raises(DataError, match="'slack:U1' should be one person's, once"):
        load_config(path, env)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ('kind = "webhook"', "needs either 'url' or 'url_env'"),
        ('kind = "webhook"\nurl = "http://a"\nurl_env = "B"', "needs either 'url' or 'url_env'"),
        ('kind = "webhook"\nurl = "ftp://example.com/"', "url: .*begins with http://"),
        ('kind = "webhook"\nurl = "example.com/hook"', "url: .*begins with http://"),
        ('kind = "webhook"\nurl = "https://"', "url: .*names a host"),
        ('kind = "webhook"\nurl = "https://example.com:99999/"', "url: .*no URL"),
        ('kind = "webhook"\nurl = "https://example.com/a b"', "url: .*spaces"),
        ('kind = "webhook"\nurl_env = "https://example.com"', "url_env: .*pattern"),
        ('kind = "webhook"\nurl_env = "A"\nsecret_env = "whsec_x="', "secret_env: .*pattern"),
        ('kind = "webhook"\nurl_env = "A"\non = ["job.exploded"]', "on.0: .*job.failed"),
        ('kind = "webhook"\nurl_env = "A"\non = []', "on: .*at least 1"),
        ('kind = "command"', "argv: Field required"),
        ('kind = "command"\nargv = []', "argv: .*at least 1"),
        ('kind = "pigeon"', "'webhook', 'command'"),
    ],
)
def test_a_notifier_that_could_not_work_is_refused_by_field(
    env: dict[str, str], tmp_path: Path, said: str, wrong: str
) -> None:
    path = written(tmp_path, f'[[notify]]\nname = "team"\n{said}')
    with pytest.raises(DataError, match=rf"(?s)agentd.toml: notify\.0.*{wrong}"):
        load_config(path, env=env)


def test_two_notifiers_do_not_share_a_name(env: dict[str, str], tmp_path: Path) -> None:
    one = '[[notify]]\nname = "team"\nkind = "command"\nargv = ["true"]\n'
    assert len(load_config(written(tmp_path, one), env=env).notify) == 1
    with pytest.raises(DataError, match="two notifiers are called 'team'"):
        load_config(written(tmp_path, one + one), env=env)


def test_a_password_in_a_url_is_not_repeated(env: dict[str, str], tmp_path: Path) -> None:
    text = '[[notify]]\nname = "team"\nkind = "webhook"\nurl = "https://ann:hunter22222@example.com/"'
    with pytest.raises(DataError, match="may not hold a user or password") as refused:
        load_config(written(tmp_path, text), env=env)
    assert "hunter22222" not in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "gpu.lan"])
def test_an_address_beyond_this_machine_needs_the_names_it_answers_to(
    env: dict[str, str], tmp_path: Path, host: str
) -> None:
    path = written(tmp_path, f'[server]\nhost = "{host}"\n')
    with pytest.raises(DataError, match="name under 'hosts'"):
        load_config(path, env)
    assert load_config(written(tmp_path, f'[server]\nhost = "{host}"\nhosts = ["gpu.lan"]\n'), env)


@pytest.mark.parametrize("name", ["*", "gpu.lan:8731", "http://gpu.lan", ""])
def test_a_host_that_no_request_could_name_is_refused(env: dict[str, str], tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="name or address alone"):
        load_config(written(tmp_path, f'[server]\nhosts = ["{name}"]\n'), env)
