"""A browser at the pages of a real daemon: signing in, what is shown, and what an answer does."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from agentd.config import Config, ServerConfig
from agentd.daemon import Daemon
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from agentd.server.app import bind, http_server
from agentd.server.auth import Gate
from agentd.store.tokens import Role, TokenTable

pytestmark = pytest.mark.anyio
Boot = Any
PEOPLE = {"ann": ("user:ann", "agent:ann"), "bob": ("user:bob",)}


class Form(HTMLParser):
    """The forms of a page: where each goes, its fields, and what has no label."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.labels, self.inputs, self.buttons = set[str](), list[str](), list[str]()
        self._button = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        match tag:
            case "form":
                self.forms.append((given.get("action") or "", {}))
            case "label":
                self.labels.add(given["for"] or "")
            case "input" if given.get("type") == "hidden":
                self.forms[-1][1][given["name"] or ""] = given["value"] or ""
            case "input" | "textarea" | "select":
                self.inputs.append(given.get("id") or "")
            case "button":
                self._button = True
            case _:
                pass

    def handle_data(self, data: str) -> None:
        if self._button:
            self.buttons.append(data)
            self._button = False

    def to(self, action: str) -> dict[str, str]:
        return next(fields for where, fields in self.forms if where == action)


class Browser:
    """One person's: keeps cookies, says where forms come from, and follows nothing by itself."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.url = str(client.base_url).rstrip("/")

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def post(self, path: str, fields: dict[str, str], **headers: str | None) -> httpx.Response:
        sent = {"origin": self.url, **headers}
        return await self.client.post(
            path, data=fields, headers={name: value for name, value in sent.items() if value is not None}
        )

    async def sign_in(self, token: str) -> httpx.Response:
        return await self.post("/login", {"token": token, "next": "/approve"})

    async def answer(self, approval: str, verdict: str, reason: str = "") -> httpx.Response:
        """What pressing one of the two buttons does, the redirect included."""
        page = await self.get(f"/approve/{approval}")
        fields = Form(page.text).to(f"/approve/{approval}")
        said = await self.post(f"/approve/{approval}", fields | {"verdict": verdict, "reason": reason})
        return await self.get(said.headers["location"]) if said.status_code == 303 else said


class Site:
    """A daemon on a real port, and what waits there."""

    def __init__(self, daemon: Daemon, url: str, stack: AsyncExitStack) -> None:
        self.daemon, self.url, self._stack = daemon, url, stack

    async def browser(self, person: str = "") -> Browser:
        client = httpx.AsyncClient(base_url=self.url, verify=False, timeout=30)
        browser = Browser(await self._stack.enter_async_context(client))
        if person:
            assert (await browser.sign_in(self.token(person))).status_code == 303
        return browser

    def token(self, person: str, role: Role = "approve", *, is_person: bool = True) -> str:
        principal = f"user:{person}" if is_person else f"agent:{person}"
        return TokenTable(self.daemon.store).create(principal, role, "test", is_person=is_person)

    async def waiting(self, tool: str = "work", **arguments: Any) -> JobView:
        caller = Caller("agent:ann", "operate", "mcp", self.daemon.state_dir, is_agent=True)
        job = await self.daemon.calls.call(tool, arguments, caller)
        assert isinstance(job, JobView)
        assert job.approval
        return job

    def journal(self, kind: str) -> list[tuple[str, str, str]]:
        entries = [entry for entry in self.daemon.journal.tail(100) if entry.kind == kind]
        return [(entry.principal, entry.data["surface"], entry.subject) for entry in entries]

    def state(self, job: JobView) -> str:
        return self.daemon.jobs.get(job.id).state


@pytest.fixture
async def open_site(boot: Boot) -> AsyncIterator[Callable[..., Awaitable[Site]]]:
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with AsyncExitStack() as stack:
        ends: list[Any] = []

        async def open_(gate: Gate | None = None, **changes: Any) -> Site:
            daemon: Daemon = await boot(**{"policy": "asking", "url": url, "people": PEOPLE} | changes)
            server = http_server(daemon, gate)
            ends.append((server, asyncio.create_task(server.serve(sockets=[listener]))))
            return Site(daemon, url, stack)

        yield open_
        for server, serving in ends:
            server.should_exit = True
            await serving
    listener.close()


@pytest.fixture
async def site(open_site: Callable[..., Awaitable[Site]]) -> Site:
    return await open_site()


# --- signing in -------------------------------------------------------------------------------


async def test_a_browser_that_is_not_signed_in_is_told_in_a_sentence_how_to_be(site: Site) -> None:
    job, browser = await site.waiting(text="my words"), await site.browser()
    for path, command in {
        f"/approve/{job.approval}": f"<code>agentd open {job.approval}</code>",
        "/approve": "<code>agentd open</code>",
    }.items():
        page = await browser.get(path)
        assert page.status_code == 401
        assert command in page.text
        assert "token of role <b>approve</b>" in page.text
        assert "my words" not in page.text
    absent = await browser.get("/approve/apr-absent")
    assert (
        absent.text.replace("apr-absent", str(job.approval))
        == (await browser.get(f"/approve/{job.approval}")).text
    )


async def test_a_code_signs_one_browser_in_once(site: Site) -> None:
    job, browser, owner = await site.waiting(), await site.browser(), await site.browser()
    bearer = {"authorization": f"Bearer {(site.daemon.state_dir / 'owner-token').read_text('ascii')}"}
    made = (await owner.client.post("/api/sign-in", headers=bearer)).json()
    assert made["seconds"] == 60
    path = f"{made['path']}&next=/approve/{job.approval}"
    for _ in range(3):  # looking at it, as previews and virus scanners do, does not use it up
        page = await browser.get(path)
        assert page.status_code == 200
        assert "set-cookie" not in page.headers
    [button] = Form(page.text).buttons
    assert button.startswith("Sign in as user:")
    signed_in = await browser.post("/login", Form(page.text).to("/login"))
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, f"/approve/{job.approval}")
    assert (await browser.get(f"/approve/{job.approval}")).status_code == 200
    other = await site.browser()
    again = await other.post("/login", Form(page.text).to("/login"))
    assert again.status_code == 401
    assert "was used" in again.text
    assert (await other.get(path)).status_code == 401
    assert (await other.get("/approve")).status_code == 401


async def test_a_personal_token_signs_in_and_is_never_shown_or_put_into_a_cookie(site: Site) -> None:
    browser, token = await site.browser(), site.token("bob")
    answer = await browser.post("/login", {"token": f" {token}\n", "next": "/approve"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/approve")
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=28800"))
    assert "Secure" not in cookie
    assert token not in cookie
    page = await browser.get("/approve")
    assert "user:bob" in page.text
    assert token not in page.text
    assert (await browser.get("/login")).headers["location"] == "/approve"


async def test_behind_https_the_cookie_is_secure(open_site: Any) -> None:
    site = await open_site(Gate(origins=frozenset({"https://box.example"})))
    browser = await site.browser()
    answer = await browser.post("/login", {"token": site.token("bob")}, origin="https://box.example")
    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("token", ["", "guessed", "agentd_" + "x" * 43])
async def test_a_wrong_token_signs_nobody_in(site: Site, token: str) -> None:
    browser = await site.browser()
    answer = await browser.sign_in(token)
    assert answer.status_code == 401
    assert "role=alert" in answer.text
    assert "set-cookie" not in answer.headers
    assert not token or token not in answer.text


async def test_guessing_tokens_is_slowed_down_and_locks_nobody_out_who_is_signed_in(open_site: Any) -> None:
    site = await open_site(Gate(calls_per_second=1e-9, burst=5))
    bob, guesser = await site.browser("bob"), await site.browser()
    assert [(await guesser.sign_in("guess")).status_code for _ in range(5)] == [401] * 4 + [429]
    assert (await bob.get("/approve")).status_code == 200


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example", "/api/status", "/approve/../x"]
)
async def test_signing_in_leads_to_a_page_of_ours_and_nowhere_else(site: Site, elsewhere: str) -> None:
    browser = await site.browser()
    answer = await browser.post("/login", {"token": site.token("bob"), "next": elsewhere})
    assert answer.headers["location"] == "/approve"


async def test_signing_out_ends_the_session_and_not_only_the_cookie(site: Site) -> None:
    browser = await site.browser("bob")
    stolen = dict(browser.client.cookies)
    page = Form((await browser.get("/approve")).text)
    assert (await browser.post("/logout", {})).status_code == 403
    assert (await browser.post("/logout", page.to("/logout"))).status_code == 303
    other = await site.browser()
    other.client.cookies.update(stolen)
    assert (await other.get("/approve")).status_code == 401


async def test_signing_in_again_ends_the_session_before(site: Site) -> None:
    browser = await site.browser("bob")
    old = dict(browser.client.cookies)
    await browser.sign_in(site.token("ann"))
    other = await site.browser()
    other.client.cookies.update(old)
    assert (await other.get("/approve")).status_code == 401


async def test_a_session_is_good_for_pages_only(site: Site) -> None:
    browser = await site.browser("bob")
    for method, path in (
        ("GET", "/api/approvals"), ("POST", "/api/sign-in"), ("POST", "/mcp"),
        ("POST", "/v1/chat/completions"), ("GET", "/api/status"),
    ):  # fmt: skip
        answer = await browser.client.request(method, path, headers={"origin": site.url})
        assert answer.status_code == 401, path


async def test_a_token_is_not_good_for_pages(site: Site) -> None:
    browser = await site.browser()
    bearer = f"Bearer {site.token('bob')}"
    assert (await browser.get("/approve", authorization=bearer)).status_code == 401


async def test_where_a_page_elsewhere_led_here_the_browser_asks_again_by_itself(site: Site) -> None:
    browser = await site.browser()
    page = await browser.get("/approve/apr-1", **{"sec-fetch-site": "cross-site"})
    assert 'http-equiv=refresh content="0; url=/approve/apr-1"' in page.text
    assert "refresh" not in (await browser.get("/approve/apr-1", **{"sec-fetch-site": "same-origin"})).text


# --- what is shown ----------------------------------------------------------------------------


async def test_the_facts_come_first_then_a_reason_and_two_buttons(site: Site) -> None:
    before = await site.waiting(text="short")
    browser = await site.browser("ann")
    await browser.answer(str(before.approval), "approve")
    job = await site.waiting(text="longer")
    page = (await browser.get(f"/approve/{job.id}")).text
    positions = [
        page.index(each)
        for each in (
            "Work on longer", f"Differs from {before.approval}", "&quot;short&quot; → &quot;longer&quot;",
            "asked by", "agent:ann (rule &#x27;work&#x27;", "takes about", "at most", "with text", "digest",
            "<textarea", ">Approve<", ">Deny<",
        )
    ]  # fmt: skip
    assert positions == sorted(positions)


async def test_every_field_has_a_label_and_enter_approves_nothing(site: Site) -> None:
    job, browser = await site.waiting(), await site.browser("ann")
    for page in (await browser.get(f"/approve/{job.approval}"), await (await site.browser()).get("/approve")):
        form = Form(page.text)
        assert form.inputs
        assert set(form.inputs) <= form.labels
        assert "name=viewport" in page.text
        assert "color-scheme:light dark" in page.text
    text = (await browser.get(f"/approve/{job.approval}")).text
    assert "<textarea" in text  # in an input, Enter presses the first button
    assert "<input id" not in text


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "\"'><img src=x onerror=alert(1)>",
        "</textarea></form><form action=https://evil.example>",
        "\u202etxt.exe\u2066",
        "a\n\nat most  $0.00",
        "&lt;b&gt; &#60;",
    ],
)
async def test_what_others_wrote_is_text_and_nothing_else(site: Site, hostile: str) -> None:
    job, browser = await site.waiting(text=hostile), await site.browser("ann")
    for path in (f"/approve/{job.approval}", "/approve"):
        page = (await browser.get(path)).text
        harmless = await site.browser("bob")
        assert tags(page) == tags((await harmless.get(path)).text)
        assert not {"script", "img", "iframe"} & set(tags(page))
        assert not any(character in page for character in "\u202e\u2066")
    shown = html.unescape(re.sub(r"<[^>]+>", "", (await browser.get(f"/approve/{job.approval}")).text))
    assert hostile[:1] == "\u202e" or hostile.split("\n")[0] in shown
    await browser.answer(str(job.approval), "deny", hostile)
    after = (await browser.get(f"/approve/{job.approval}")).text
    assert not {"script", "img", "iframe", "textarea"} & set(tags(after))


def tags(page: str) -> list[str]:
    found: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(tag)
            assert not any(name.startswith("on") for name, _ in attrs)

    Tags().feed(page)
    return found


async def test_what_waits_is_listed(site: Site) -> None:
    browser = await site.browser("bob")
    assert "Nothing waits" in (await browser.get("/approve")).text
    jobs = [await site.waiting(text="one"), await site.waiting(text="two")]
    page = (await browser.get("/approve")).text
    assert "2 questions wait" in page
    assert all(f"href='/approve/{job.approval}'" in page for job in jobs)
    assert page.index("Work on two") < page.index("Work on one")


async def test_a_question_that_is_not_there_is_said_to_be_so(site: Site) -> None:
    page = await (await site.browser("bob")).get("/approve/apr-absent")
    assert page.status_code == 404
    assert "There is no approval" in page.text


async def test_no_page_can_be_framed_kept_or_made_to_load_something(site: Site) -> None:
    job, bob, nobody = await site.waiting(), await site.browser("bob"), await site.browser()
    pages = [
        await bob.get(f"/approve/{job.approval}"),
        await bob.get("/approve"),
        await bob.get("/approve/x"),
    ]
    pages += [await nobody.get("/approve"), await nobody.get("/login"), await nobody.get("/login?code=x")]
    pages += [await bob.post("/approve/x", {}), await nobody.post("/login", {}), await bob.get("/login")]
    for page in pages:
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "same-origin"


# --- answering --------------------------------------------------------------------------------


async def test_approving_starts_the_job_and_the_page_tells_what_happened(site: Site) -> None:
    job, browser = await site.waiting(), await site.browser("bob")
    page = await browser.answer(str(job.approval), "approve", "cheap\r\nenough")
    assert page.status_code == 200
    assert "Approved by user:bob: cheap enough" in page.text
    assert ">Approve<" not in page.text
    assert (await site.daemon.jobs.settled(job.id)).state == "succeeded"
    done = (await browser.get(f"/approve/{job.approval}")).text
    assert f"work {job.id}: succeeded" in done
    assert "refresh" not in done
    assert site.journal("approval.approved") == [("user:bob", "web", job.approval)]


async def test_while_the_job_goes_on_the_page_looks_again_by_itself(site: Site) -> None:
    job, browser = await site.waiting(behaviour="hang"), await site.browser("bob")
    waiting = (await browser.get(f"/approve/{job.approval}")).text
    assert "refresh" not in waiting  # or a reason that is being typed would be lost
    page = await browser.answer(str(job.approval), "approve")
    assert f'content="5; url=/approve/{job.approval}?again"' in page.text


async def test_denying_ends_the_job_and_whoever_asked_is_told_why(site: Site) -> None:
    job, browser = await site.waiting(), await site.browser("bob")
    page = await browser.answer(str(job.approval), "deny", "use the small model")
    assert "Denied by user:bob: use the small model" in page.text
    view = site.daemon.jobs.get(job.id)
    assert (view.state, "use the small model" in view.reason) == ("cancelled", True)


async def test_a_button_that_is_pressed_twice_says_the_same_twice(site: Site) -> None:
    job, browser = await site.waiting(), await site.browser("bob")
    path = f"/approve/{job.approval}"
    fields = Form((await browser.get(path)).text).to(path) | {"verdict": "approve"}
    answers = await asyncio.gather(browser.post(path, fields), browser.post(path, fields))
    assert [answer.status_code for answer in answers] == [303, 303]
    assert len(site.journal("approval.approved")) == 1


async def test_an_answer_that_comes_too_late_is_told_beside_what_was_said(site: Site) -> None:
    job, ann, bob = await site.waiting(), await site.browser("ann"), await site.browser("bob")
    path = f"/approve/{job.approval}"
    fields = Form((await bob.get(path)).text).to(path) | {"verdict": "approve"}
    await ann.answer(str(job.approval), "deny", "not today")
    late = await bob.post(path, fields)
    assert late.status_code == 409
    assert "already denied by user:ann" in late.text
    assert "not today" in late.text


async def test_a_form_without_its_key_or_with_that_of_another_browser_counts_for_nothing(site: Site) -> None:
    job, ann, bob = await site.waiting(), await site.browser("ann"), await site.browser("bob")
    path = f"/approve/{job.approval}"
    of_ann = Form((await ann.get(path)).text).to(path)
    for fields in ({}, {"form_key": ""}, {"form_key": "é"}, of_ann):
        answer = await bob.post(path, fields | {"verdict": "approve"})
        assert answer.status_code == 403
        assert "not sent to this browser" in answer.text
    assert site.state(job) == "waiting_approval"


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example"])
async def test_a_form_from_elsewhere_counts_for_nothing(site: Site, origin: str | None) -> None:
    job, browser = await site.waiting(), await site.browser("bob")
    path = f"/approve/{job.approval}"
    fields = Form((await browser.get(path)).text).to(path) | {"verdict": "approve"}
    assert (await browser.post(path, fields, origin=origin)).status_code == 403
    signing_in = {"token": site.token("bob")}
    assert (await browser.post("/login", signing_in, origin=origin)).status_code == 403
    assert site.state(job) == "waiting_approval"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "must be"),
        ({"verdict": "yes"}, "must be"),
        ({"verdict": "approve", "reason": "x" * 1001}, "1,001 characters"),
    ],
)
async def test_nonsense_is_told_and_leaves_the_question_open(
    site: Site, fields: dict[str, str], said: str
) -> None:
    job, browser = await site.waiting(), await site.browser("bob")
    path = f"/approve/{job.approval}"
    answer = await browser.post(path, Form((await browser.get(path)).text).to(path) | fields)
    assert answer.status_code == 400
    assert said in answer.text
    assert ">Approve<" in answer.text
    assert site.state(job) == "waiting_approval"


async def test_two_people_approve_in_two_browsers(open_site: Any) -> None:
    site = await open_site(policy="asking_two")
    job, ann, bob = await site.waiting(), await site.browser("ann"), await site.browser("bob")
    first = await ann.answer(str(job.approval), "approve")
    assert "1 of 2 people (ann)" in first.text
    assert site.state(job) == "waiting_approval"
    assert ">Deny<" in (await bob.get(f"/approve/{job.approval}")).text
    second = await bob.answer(str(job.approval), "approve")
    assert "Approved by user:ann, user:bob" in second.text
    assert [who for who, _, _ in site.journal("approval.approved")] == ["user:bob"]


async def test_who_asked_is_told_that_somebody_else_has_to_approve(open_site: Any) -> None:
    site = await open_site(policy="asking_two")
    caller = Caller("agent:ann", "operate", "mcp", site.daemon.state_dir, is_agent=True)
    with pytest.raises(Exception, match="a person has to approve") as asked:
        await site.daemon.calls.call("move", {"name": "a"}, caller)
    approval = getattr(asked.value, "approval_id", "")
    refused = await (await site.browser("ann")).answer(approval, "approve")
    assert refused.status_code == 403
    assert "does not let the one who asked approve" in refused.text
    assert "Ask somebody else" in refused.text
    assert site.journal("approval.refused") == [("user:ann", "web", approval)]
    assert "Approved by user:bob" in (await (await site.browser("bob")).answer(approval, "approve")).text


async def test_a_session_whose_token_is_revoked_answers_nothing(site: Site) -> None:
    job, browser = await site.waiting(), await site.browser("bob")
    path = f"/approve/{job.approval}"
    fields = Form((await browser.get(path)).text).to(path) | {"verdict": "approve"}
    site.daemon.store.change("DELETE FROM tokens WHERE principal = 'user:bob'", [])
    assert (await browser.post(path, fields)).status_code == 401
    assert site.state(job) == "waiting_approval"


async def test_an_answer_that_comes_after_the_question_expired_is_told_so(site: Site) -> None:
    job, browser = await site.waiting(), await site.browser("bob")
    path = f"/approve/{job.approval}"
    fields = Form((await browser.get(path)).text).to(path) | {"verdict": "approve"}
    site.daemon.store.change("UPDATE approvals SET expires_at = 1 WHERE id = ?", [job.approval])
    late = await browser.post(path, fields)
    assert (late.status_code, "is already expired" in late.text) == (409, True)
    site.daemon.approvals.expire()
    page = (await browser.get(path)).text
    assert "Nobody answered in time" in page
    assert ">Approve<" not in page


async def test_what_was_changed_since_it_was_asked_is_told_on_the_page(site: Site) -> None:
    job, browser = await site.waiting(text="as asked"), await site.browser("bob")
    site.daemon.store.change(
        "UPDATE jobs SET launch = json_set(launch, '$.spec.text', 'another') WHERE id = ?", [job.id]
    )
    await browser.answer(str(job.approval), "approve")
    assert (await site.daemon.jobs.settled(job.id)).state == "failed"
    page = (await browser.get(f"/approve/{job.approval}")).text
    assert "is not started: the parameter &#x27;text&#x27; was changed since" in page


async def test_a_question_that_was_asked_again_leads_to_the_new_one(
    boot: Boot, open_site: Any, agent: Caller, tmp_path: Path
) -> None:
    first: Daemon = await boot(policy="asking", prices=prices(tmp_path, 36))
    job = await first.calls.call("work", {}, agent)
    assert isinstance(job, JobView)
    await boot.stop(first)
    site = await open_site(prices=prices(tmp_path, 72))
    async for view in site.daemon.jobs.follow(job.id):
        if view.approval != job.approval and view.state == "waiting_approval":
            break
    browser = await site.browser("bob")
    page = (await browser.get(f"/approve/{job.approval}")).text
    assert "It does not stand any more: it may cost $1.20 now, up from $0.60" in page
    assert f"asked again: <a href='/approve/{view.approval}'>" in page
    assert "asked again" in (await browser.get(f"/approve/{view.approval}")).text


def prices(folder: Path, usd_per_hour: float) -> str:
    """A price table in which every machine costs that much."""
    path = folder / f"prices-{usd_per_hour}.yaml"
    price = {"usd_per_hour": usd_per_hour, "source": "made up"}
    table = {"as_of": "2026-11-01", "compute": dict.fromkeys(("cpu", "cuda", "rocm"), price)}
    path.write_text(yaml.safe_dump(table), encoding="utf-8")
    return str(path)


# --- where it is ------------------------------------------------------------------------------


async def test_a_job_that_waits_says_where_its_page_is(site: Site) -> None:
    job = await site.waiting()
    assert f"{site.url}/approve/{job.approval} in a browser" in job.next
    assert (await (await site.browser("bob")).get(f"/approve/{job.approval}")).status_code == 200


@pytest.mark.parametrize(
    ("settings", "seen_at"),
    [
        ({}, "http://127.0.0.1:9"),
        ({"host": "0.0.0.0", "hosts": ["GPU.lan"]}, "http://gpu.lan:9"),
        ({"hosts": ["box.example"]}, "http://127.0.0.1:9"),
        (
            {"hosts": ["box.example"], "origins": ["https://ui.example", "https://box.example"]},
            "https://box.example",
        ),
        ({"hosts": ["b"], "oauth": {"issuer": "https://i", "resource": "https://b:1/mcp"}}, "https://b:1"),
    ],
)
async def test_the_address_is_what_browsers_call_the_daemon(settings: dict[str, Any], seen_at: str) -> None:
    config = ServerConfig.model_validate(settings)
    assert config.seen_at("http://127.0.0.1:9") == seen_at
    assert Config.model_fields["server"].default.seen_at("http://127.0.0.1:9") == "http://127.0.0.1:9"
