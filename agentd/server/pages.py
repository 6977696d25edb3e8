"""Pages where a person answers questions in a browser: ``/login``, ``/approve`` and ``/logout``.

They take the session of a browser and nothing else, and the answer goes the way that every answer
goes. A form counts only from the page that it was sent in: its key belongs to the session, and the
browser has to say that it comes from here.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, get_args
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agentd.errors import AgentdError, Conflict, InputError, Unauthorized
from agentd.server import page_html as html
from agentd.server.auth import CALLER, SESSION, caller_of, cookie_name, require
from agentd.server.ports import Caller, Kernel, Verdict
from agentd.server.sessions import CODE_S, LIFE_S, SURFACE, Session, Sessions
from agentd.server.wire import status_of

__all__ = ["page_routes"]

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        f"default-src 'none'; style-src '{html.STYLE_HASH}'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # Not 'no-referrer': browsers would then send 'Origin: null' with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
CHALLENGE = {"www-authenticate": 'Cookie realm="agentd", form-action="/login"'}
FIELDS = 10
ONWARD = re.compile(r"/approve(/[\w.-]{1,100})?", re.ASCII)
STARTED_ELSEWHERE = ("cross-site", "same-site")

Page = Callable[[Request, Session], Awaitable[Response]]


def page_routes(kernel: Kernel, sessions: Sessions) -> list[Route]:
    """The pages, and where the command line gets a code that signs a browser in."""
    pages = _Pages(kernel, sessions)
    return [
        Route("/api/sign-in", pages.code, methods=["POST"]),
        Route("/login", _told(pages.login_form), methods=["GET"]),
        Route("/login", _told(pages.login), methods=["POST"]),
        Route("/logout", _told(pages.for_person(pages.logout)), methods=["POST"]),
        Route("/approve", _told(pages.for_person(pages.questions)), methods=["GET"]),
        Route("/approve/{id}", _told(pages.for_person(pages.question)), methods=["GET"]),
        Route("/approve/{id}", _told(pages.for_person(pages.decide)), methods=["POST"]),
    ]


class _Pages:
    def __init__(self, kernel: Kernel, sessions: Sessions) -> None:
        self._kernel, self._sessions = kernel, sessions

    # --- signing in -------------------------------------------------------------------------

    async def code(self, request: Request) -> Response:
        """What `agentd open` asks for: the address that signs one browser in, once and soon."""
        caller = caller_of(request.scope, "cli")
        try:
            code = self._sessions.code(require(caller, "approve"))
        except Unauthorized:
            self._kernel.approvals.refused("login", caller, "")
            raise
        answer = {"path": f"/login?code={code}", "seconds": CODE_S}
        return JSONResponse(answer, headers={"cache-control": "no-store"})

    async def login_form(self, request: Request) -> Response:
        onward = _onward(request.query_params.get("next", ""))
        if code := request.query_params.get("code", ""):
            holder = self._sessions.whose(code)
            if holder is None:
                raise _NotSignedIn("This link was used, or is older than a minute. Run agentd open again")
            return _page(html.code_page(code, holder.principal, onward))
        if _session(request) is not None:
            return _onto(onward)
        return _page(html.sign_in_page(onward))

    async def login(self, request: Request) -> Response:
        form = await _form(request)
        onward = _onward(form.get("next", ""))
        if code := form.get("code", ""):
            secret = self._sessions.redeem(code)
            problem = "This link was used, or is older than a minute. Run agentd open again"
        else:
            secret = self._opened_with(form.get("token", "").strip())
            problem = "That token is not known here, was revoked, or has expired"
        if secret is None:
            raise _NotSignedIn(problem)
        self._sessions.end(_cookie(request))
        answer = _onto(onward)
        answer.set_cookie(
            cookie_name(request.headers["host"]),
            secret,
            max_age=round(LIFE_S),
            path="/",
            httponly=True,
            samesite="strict",
            secure=request.headers.get("origin", "").startswith("https://"),
        )
        return answer

    def _opened_with(self, token: str) -> str | None:
        """A session of whoever has this token. Raises `Unauthorized`, and writes down who tried."""
        holder = self._kernel.tokens.check(token) if token else None
        if holder is None:
            return None
        try:
            return self._sessions.open(holder)
        except Unauthorized:
            self._kernel.approvals.refused("login", replace(holder, surface=SURFACE), "")
            raise

    async def logout(self, request: Request, session: Session) -> Response:
        _check_key(await _form(request), session)
        self._sessions.end(_cookie(request))
        answer = _onto("/login")
        answer.delete_cookie(cookie_name(request.headers["host"]), path="/")
        return answer

    def for_person(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        """A page that only who is signed in sees. An agent that comes with its token is written down."""

        async def checked(request: Request) -> Response:
            session = _session(request)
            if session is not None:
                return await page(request, session)
            caller: Caller | None = request.scope.get(CALLER)
            if request.method == "POST" and caller is not None:
                subject = request.path_params.get("id", "login")
                self._kernel.approvals.refused(subject, replace(caller, surface=SURFACE), "")
            raise _NotSignedIn

        return checked

    # --- questions --------------------------------------------------------------------------

    async def questions(self, request: Request, session: Session) -> Response:
        waiting = self._kernel.seen_by(session.caller).approvals.list()
        return _page(html.list_page([each.model_dump() for each in waiting], session))

    async def question(self, request: Request, session: Session) -> Response:
        return self._question(request.path_params["id"], session)

    async def decide(self, request: Request, session: Session) -> Response:
        """The kernel decides who may; what it refuses is told beside the question as it is now."""
        form, approval_id = await _form(request), request.path_params["id"]
        _check_key(form, session)
        self._kernel.seen_by(session.caller).approvals.get(
            approval_id
        )  # what is not there is a page of its own
        try:
            verdict, reason = _verdict(form), _reason(form)
            await self._kernel.approvals.decide(approval_id, verdict, session.caller, reason)
        except AgentdError as error:
            if not (isinstance(error, Conflict) and self._said(approval_id, session, form)):
                return self._question(approval_id, session, error)
        return _onto(f"/approve/{quote(approval_id)}")

    def _said(self, approval_id: str, session: Session, form: dict[str, str]) -> bool:
        """Whether this very answer stands already: a button was pressed twice."""
        question = self._kernel.seen_by(session.caller).approvals.get(approval_id).model_dump()
        mine = (session.caller.principal, form.get("verdict"))
        return any((answer["principal"], answer["verdict"]) == mine for answer in question["answers"])

    def _question(self, approval_id: str, session: Session, problem: AgentdError | None = None) -> Response:
        seen = self._kernel.seen_by(session.caller)
        question: dict[str, Any] = seen.approvals.get(approval_id).model_dump()
        text = html.question_page(question, seen.jobs.get(question["job"]), session, problem)
        return _page(text, 200 if problem is None else status_of(problem))


class _NotSignedIn(Exception):
    """With what there is to say about an attempt, if there was one."""


def _told(page: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Errors as pages, in plain words."""

    async def told(request: Request) -> Response:
        try:
            return await page(request)
        except _NotSignedIn as error:
            return _sign_in(request, str(error))
        except AgentdError as error:
            return _page(html.error_page(error, _session(request)), status_of(error))

    return told


def _sign_in(request: Request, problem: str) -> Response:
    path = request.url.path
    onward = _onward(path)
    # A strict cookie is left out where a page elsewhere led here: our own page asks once more.
    led = request.method == "GET" and request.headers.get("sec-fetch-site") in STARTED_ELSEWHERE
    again = onward if led and not problem else ""
    subject = onward.removeprefix("/approve").strip("/")
    return _page(html.sign_in_page(onward, problem, subject=subject, again=again), 401, CHALLENGE)


# --- forms ----------------------------------------------------------------------------------


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form of ours. Raises `InputError`, and `Unauthorized` where it comes from elsewhere."""
    if not request.headers.get("origin") and request.headers.get("sec-fetch-site") != "same-origin":
        raise Unauthorized("The browser did not say that this comes from here", hint="Use one that is newer")
    try:
        pairs = parse_qsl((await request.body()).decode(), max_num_fields=FIELDS, keep_blank_values=True)
    except ValueError as error:
        raise InputError("The form cannot be read", hint="Load the page again") from error
    return dict(pairs)


def _check_key(form: dict[str, str], session: Session) -> None:
    if not session.owns(form.get("form_key", "")):
        raise Unauthorized(
            "This form was not sent to this browser as it is signed in now", hint="Load the page again"
        )


def _verdict(form: dict[str, str]) -> Verdict:
    said = form.get("verdict", "")
    if said not in get_args(Verdict):
        raise InputError(f"'verdict' must be 'approve' or 'deny', not {said[:40]!r}")
    return "approve" if said == "approve" else "deny"


def _reason(form: dict[str, str]) -> str:
    reason = " ".join(form.get("reason", "").split())
    if len(reason) > html.REASON_LENGTH:
        raise InputError(f"The reason has {len(reason):,} characters, and may have {html.REASON_LENGTH:,}")
    return reason


# --- answers --------------------------------------------------------------------------------


def _session(request: Request) -> Session | None:
    return request.scope.get(SESSION)


def _cookie(request: Request) -> str:
    return request.cookies.get(cookie_name(request.headers["host"]), "")


def _onward(path: str) -> str:
    """A page of ours to go to, and never anything else."""
    return path if ONWARD.fullmatch(path) else "/approve"


def _page(text: str, status: int = 200, more: dict[str, str] | None = None) -> Response:
    return HTMLResponse(text, status, headers=HEADERS | (more or {}))


def _onto(path: str) -> Response:
    return RedirectResponse(path, 303, headers=HEADERS)
