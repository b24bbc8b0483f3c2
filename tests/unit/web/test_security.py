"""Who may see the pages, and what a page, a link or a record cannot do."""

from __future__ import annotations

import logging
import re

import pytest
from starlette.routing import Route

from flux.core.errors import ConfigurationError
from flux.core.ports import ProducerRecord
from flux.web.auth import LASTS, MAX_FAILURES, POLICY, here
from flux.web.options import LOOPBACK, WebOptions, hosts_of
from unit.support.operate_support import DEAD
from unit.support.web_support import EVIL, ORIGIN, TOKEN, Web, links_of, text_of

PAGES = (
    "/",
    "/workers",
    "/jobs",
    "/tasks/Billing",
    "/tasks/Billing/waiting",
    "/tasks/Billing/dead-letters",
    "/tasks/Billing/dead-letters/0/0",
    "/tasks/Billing/dead-letters/replay",
    "/tasks/Billing/dead-letters/purge?what=all",
    "/tasks/Billing/dead-letters/export",
    "/tasks/Billing/records/0/0/0",
    "/tasks/Billing/trace?key=k",
    "/tasks/Billing/doctor",
)


@pytest.fixture
def web() -> Web:
    web = Web()
    web.yard.bury({})
    web.yard.kit.write(b"value", topic="orders")
    web.take_sample()
    return web


# -- this machine alone, or a token


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_on_this_machine_no_token_is_needed(host: str) -> None:
    assert WebOptions(hosts=hosts_of(host, frozenset())).hosts == LOOPBACK


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("0.0.0.0", []), ("::", []), ("10.0.0.7", []), ("flux.example", []), ("127.0.0.1", ["flux.example"])],
)
def test_anything_else_needs_a_token(host: str, allowed: list[str]) -> None:
    hosts = hosts_of(host, frozenset(allowed))
    with pytest.raises(ConfigurationError, match="set a token"):
        WebOptions(hosts=hosts)
    WebOptions(hosts=hosts, token=TOKEN)


def test_a_token_is_not_short_and_is_never_shown() -> None:
    with pytest.raises(ConfigurationError, match="16 characters"):
        WebOptions(token="x" * 15)
    assert TOKEN not in repr(WebOptions(token=TOKEN))


# -- names


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7373", "LOCALHOST", "[::1]:7373"])
def test_it_answers_to_its_own_names(web: Web, host: str) -> None:
    assert web.client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::1", "localhost/login", "x"]
)
def test_it_refuses_another_name_as_after_dns_rebinding(web: Web, host: str) -> None:
    answer = web.client.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "Billing" not in answer.text


# -- other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_another_site_may_not_embed_or_fetch(web: Web, headers: dict[str, str]) -> None:
    assert web.client.get("/tasks/Billing/trace?key=k", headers=headers).status_code == 403


def test_a_link_from_another_site_is_followed_once_more_so_that_the_browser_sends_its_cookie(web: Web) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    answer = web.client.get('/tasks/Billing/trace?key="><b>', headers=headers)
    assert (answer.status_code, "set-cookie" in answer.headers) == (200, False), (
        "it would take the place of the old one"
    )
    assert links_of(answer.text) == ["/tasks/Billing/trace?key=%22%3E%3Cb%3E"]
    assert "Billing</" not in answer.text
    web.visitor()
    assert "Billing" in web.client.get("/", headers=headers).text


def test_a_link_from_another_site_leads_to_no_third_one(web: Web) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    answer = web.client.get("http://127.0.0.1//elsewhere.example/", headers=headers)
    assert links_of(answer.text) == ["/"]


def posts(web: Web) -> list[str]:
    filled = {"{task}": "Billing", "{id}": "0", "{partition:int}": "0", "{offset:int}": "0"}
    paths = [route.path for route in web.app.routes if isinstance(route, Route) and "POST" in (route.methods or ())]
    return [re.sub(r"\{[\w:]+\}", lambda found: filled[found[0]], path) for path in paths]


def test_every_post_needs_the_proof_of_its_own_visitor(web: Web) -> None:
    assert len(posts(web)) == 10
    other = web.browser()
    other.get("/")
    foreign = web.context.sessions.proof(other.cookies["flux-web"])
    web.visitor()
    for path in posts(web):
        for fields in ({}, {"proof": ""}, {"proof": "0" * 64}, {"proof": foreign}, {"proof": "\udcff"}):
            data = {name: value.encode("utf-8", "surrogateescape") for name, value in fields.items()}
            answer = web.client.post(path, data=data, headers={"origin": ORIGIN})
            assert answer.status_code in (400, 403), (path, fields)
    assert web.context.jobs.all() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
    ],
)
def test_every_post_needs_the_same_origin(web: Web, headers: dict[str, str]) -> None:
    proof = web.context.sessions.proof(web.visitor())
    for path in posts(web):
        assert web.client.post(path, data={"proof": proof}, headers=headers).status_code == 403, path


def test_a_form_is_bounded(web: Web) -> None:
    proof = web.context.sessions.proof(web.visitor())
    for data, code in ({"proof": proof, "x": "y" * 70_000}, 413), ({f"f{n}": "" for n in range(60)}, 400):
        answer = web.client.post("/tasks/Billing/dead-letters/replay", data=data, headers={"origin": ORIGIN})
        assert answer.status_code == code


# -- response headers


@pytest.mark.parametrize("path", [*PAGES, "/static/flux.js", "/nothing-here", "/tasks/Nobody"])
def test_every_answer_carries_the_policy(web: Web, path: str) -> None:
    headers = web.client.get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert path.startswith("/static/") or headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PAGES)
def test_pages_have_no_script_and_no_style_of_their_own(web: Web, path: str) -> None:
    page = web.get(path)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    version = page_version(page)
    assert re.findall(r"<script[^>]*>", page) == [
        f'<script src="/static/{name}.js?{version}" defer>' for name in ("flux", "controls")
    ]
    assert all(link.startswith(("/", "#", "?")) and not link.startswith("//") for link in links_of(page))


@pytest.mark.parametrize(
    ("cookie", "shown"), [("dark", ' data-theme="dark"'), ("light", ' data-theme="light"'), ('"><b>', "")]
)
def test_the_choice_of_light_or_dark_is_one_of_two_words(web: Web, cookie: str, shown: str) -> None:
    page = web.client.get("/", headers={"cookie": f"flux-theme={cookie}"}).text
    assert f'<html lang="en"{shown}>' in page


def page_version(page: str) -> str:
    found = re.search(r"flux\.css\?([^\"]*)", page)
    assert found is not None
    return found[1]


def test_what_records_hold_is_text_and_nothing_else() -> None:
    web = Web()
    web.yard.bury({"error": EVIL, "text": EVIL, "trace": f'  File "{EVIL}", line 1, in x\n'}, key=EVIL.encode())
    web.yard.kit.write(ProducerRecord(EVIL.encode(), EVIL.encode(), [(EVIL, EVIL.encode())], 0), topic=DEAD)
    web.report(host=EVIL)
    web.yard.kit.write(ProducerRecord(EVIL.encode(), EVIL.encode(), [], 0), topic="orders")
    web.take_sample()
    pages = ["/", "/workers", "/tasks/Billing", "/tasks/Billing/dead-letters", "/tasks/Billing/trace?origin=0:0"]
    pages += [
        "/tasks/Billing/dead-letters/0/0",
        "/tasks/Billing/dead-letters/0/1",
        '/tasks/Billing/dead-letters?key=<script>&error=">',
    ]
    for path in pages:
        page = web.get(path)
        assert "<script>alert" not in page, path
        assert "\u202e" not in page, path
        assert page.count("<script") == 2, path
    assert "alert(1)" in text_of(web.get("/tasks/Billing/dead-letters/0/1"))


def test_errors_are_one_line_and_never_a_traceback(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    page = text_of(web.get("/tasks/Billing/dead-letters/0/99", 409))
    assert "there is no dead letter at 0:99" in page
    for path in ("/tasks/Nobody", "/tasks/Nobody/dead-letters", "/jobs/0", "/x"):
        web.get(path, 404)
    monkeypatch.setattr(web.context, "jobs", None)
    answer = web.client.get("/jobs/0")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text


# -- the token


@pytest.fixture
def locked() -> Web:
    web = Web(token=TOKEN, hosts=None)
    web.yard.bury({})
    web.take_sample()
    return web


@pytest.mark.parametrize(
    "host", ["x/login", "x/static/", "x?", "x#", "x/login?", "127.0.0.1/static/x", "x\\login", "a b"]
)
def test_no_name_opens_what_an_address_does_not(locked: Web, host: str) -> None:
    for path in ("/", "/tasks/Billing", "/events"):
        answer = locked.client.get(path, headers={"host": host})
        assert answer.status_code != 200, host
        assert "Billing" not in answer.text


def log_in(web: Web, token: str = TOKEN, **fields: str) -> object:
    proof = web.context.sessions.proof(web.visitor())
    data = {"proof": proof, "token": token, **fields}
    return web.client.post("/login", data=data, headers={"origin": ORIGIN})


def test_without_the_token_nothing_is_shown(locked: Web) -> None:
    for path in (*PAGES, "/events", "/tasks/Nobody"):
        answer = locked.client.get(path)
        assert (answer.status_code, answer.headers["location"].startswith("/login?next=")) == (303, True), path
    locked.visitor()
    proof = locked.context.sessions.proof(locked.visitor())
    for path in posts(locked):
        data = {"proof": proof} if path != "/login" else {}
        answer = locked.client.post(path, data=data, headers={"origin": ORIGIN})
        assert answer.status_code in (401, 403), path
        assert "Billing" not in answer.text, path
    assert "Billing" not in locked.client.get("/static/nothing").text
    assert "Billing" not in locked.client.get("/login").text


def test_the_token_opens_the_pages_until_the_session_ends(locked: Web) -> None:
    before = locked.visitor()
    answer = log_in(locked, next="/tasks/Billing?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/tasks/Billing?x=1")  # type: ignore[attr-defined]
    cookie = answer.headers["set-cookie"]  # type: ignore[attr-defined]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert TOKEN not in cookie
    assert locked.visitor() != before, "the name from before the login is known to whoever gave it"
    assert "Billing" in locked.get("/")
    locked.yard.system.time += LASTS + 1
    locked.get("/", 303)


def test_who_logs_out_is_out(locked: Web) -> None:
    log_in(locked)
    locked.post("/logout")
    locked.get("/", 303)


def test_the_cookie_is_for_https_alone_where_the_pages_are() -> None:
    web = Web(token=TOKEN, hosts=None)
    assert "Secure" in web.browser("https://flux.example").get("/login").headers["set-cookie"]
    assert "Secure" not in web.browser("http://flux.example").get("/login").headers["set-cookie"]


def test_a_wrong_token_is_refused_and_many_of_them_lock_the_door(locked: Web) -> None:
    for wrong in [TOKEN + "x", TOKEN[:-1], "", "\u00e9" * 20] + ["x"] * (MAX_FAILURES - 4):
        assert log_in(locked, wrong).status_code == 403  # type: ignore[attr-defined]
    assert log_in(locked).status_code == 429  # type: ignore[attr-defined]
    locked.yard.system.time += 61
    assert log_in(locked).status_code == 303  # type: ignore[attr-defined]


def test_a_proxy_may_give_the_token_itself_and_forms_need_their_proof_all_the_same(locked: Web) -> None:
    given = {"x-flux-token": TOKEN}
    assert "Billing" in locked.client.get("/", headers=given).text
    assert locked.client.get("/", headers={"x-flux-token": "wrong"}).status_code == 303
    answer = locked.client.post("/tasks/Billing/dead-letters/replay", headers={**given, "origin": ORIGIN})
    assert answer.status_code == 403


def test_wrong_tokens_of_a_header_lock_the_door_too(locked: Web) -> None:
    for number in range(MAX_FAILURES):
        locked.client.get("/", headers={"x-flux-token": str(number)})
    assert locked.client.get("/", headers={"x-flux-token": TOKEN}).status_code == 303
    locked.yard.system.time += 61
    assert locked.client.get("/", headers={"x-flux-token": TOKEN}).status_code == 200


def test_the_token_is_neither_in_an_address_nor_in_the_log(locked: Web, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        log_in(locked, "wrong-token-wrong-token")
        page = log_in(locked)
        assert TOKEN not in locked.get("/")
    assert TOKEN not in str(page.headers)  # type: ignore[attr-defined]
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    assert not any(TOKEN in line or "wrong-token" in line for line in ours)


@pytest.mark.parametrize(
    "address", ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "", "x", "/a\nb", "/\t/evil"]
)
def test_after_the_login_one_stays_here(address: str) -> None:
    assert here(address) == "/"


# -- read-only


def test_read_only_offers_and_does_nothing_that_changes() -> None:
    web = Web(read_only=True)
    web.yard.bury({})
    web.take_sample()
    for path in ("/tasks/Billing/dead-letters", "/tasks/Billing/dead-letters/0/0"):
        page = web.get(path)
        assert "/replay" not in page
        assert "/purge" not in page
    for path in ("/tasks/Billing/dead-letters/replay", "/tasks/Billing/dead-letters/purge"):
        assert "read-only" in text_of(web.post(path, {"name": "Billing", "before": "0:1"}, 403).text)
    assert web.context.jobs.all() == []


# -- behind a proxy


def test_links_and_the_cookie_follow_the_path_of_a_proxy(web: Web) -> None:
    from starlette.testclient import TestClient

    client = TestClient(web.app, base_url=ORIGIN, root_path="/flux", follow_redirects=False)
    answer = client.get("/flux/tasks/Billing")
    assert answer.status_code == 200
    assert "Path=/flux;" in answer.headers["set-cookie"]
    assert {link for link in links_of(answer.text) if link.startswith("/")} > {
        "/flux/",
        "/flux/tasks/Billing/dead-letters",
    }
    assert all(link.startswith("/flux/") for link in links_of(answer.text) if link.startswith("/"))
