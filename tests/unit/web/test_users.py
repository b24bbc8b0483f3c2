"""Viewers, operators and administrators: by a token, or by the header of a proxy that is trusted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from flux.core.errors import ConfigurationError
from flux.operate.audit import actions
from flux.web.options import WebOptions
from flux.web.users import AccessToken, ProxyLogin, User, UserRole, grants_of, proxies_of, read_tokens
from unit.support.web_support import ORIGIN, TOKEN, Web, text_of

PROXY = "10.0.0.7"
DEAD_LETTERS = "/tasks/Billing/dead-letters"
OTHERS = "another-token-of-enough-letters"


def made(**options: Any) -> Web:
    web = Web(**options)
    web.yard.bury({})
    web.take_sample()
    return web


def by_proxy(**more: Any) -> ProxyLogin:
    roles = {"olga": UserRole.OPERATOR, "anna": UserRole.ADMIN}
    return ProxyLogin("X-Forwarded-User", proxies_of([PROXY]), **{"users": roles, **more})


def from_(web: Web, peer: str, **headers: str) -> TestClient:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return TestClient(web.app, base_url=ORIGIN, client=(peer, 5), follow_redirects=False, headers=headers)


def sent(client: TestClient, web: Web, path: str, **fields: str) -> Any:
    client.get("/")
    proof = web.context.sessions.proof(client.cookies["flux-web"])
    return client.post(path, data={"proof": proof, **fields}, headers={"origin": ORIGIN})


# -- tokens of users


def test_a_file_gives_each_user_a_token_and_a_role() -> None:
    found = read_tokens(f"# who\n\nviewer vera  {TOKEN}\nADMIN anna\t{OTHERS}\n")
    assert [each.user for each in found] == [User("vera", UserRole.VIEWER), User("anna", UserRole.ADMIN)]
    assert TOKEN not in repr(found)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("", "there is no token"),
        (f"viewer {TOKEN}", "line 1: write ROLE NAME TOKEN"),
        (f"\nboss vera {TOKEN}", "line 2: 'boss' is no role: choose one of viewer, operator, admin"),
        ("viewer vera short", "line 1: a token needs at least 16 characters"),
        (f"viewer vera {TOKEN}\nadmin anna {TOKEN}", "line 2: an earlier line has the same token"),
    ],
)
def test_a_file_that_is_wrong_is_refused_without_repeating_a_token(lines: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        read_tokens(lines)
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_users_cannot_have_one_token() -> None:
    tokens = [AccessToken(User("vera", UserRole.VIEWER), TOKEN)]
    with pytest.raises(ConfigurationError, match="same token"):
        WebOptions(token=TOKEN, tokens=tokens)
    assert not WebOptions(tokens=tokens).open


def test_a_token_gives_its_users_name_and_role(caplog: pytest.LogCaptureFixture) -> None:
    web = made(tokens=read_tokens(f"viewer vera {TOKEN}\noperator olga {OTHERS}"))
    web.post("/login", {"token": TOKEN})
    page = web.get(DEAD_LETTERS)
    assert "vera viewer" in text_of(page)
    assert "Replay" not in text_of(page)
    assert "takes the role operator" in text_of(web.post(f"{DEAD_LETTERS}/replay", code=403).text)

    web.post("/logout")
    web.post("/login", {"token": OTHERS})
    page = text_of(web.get(DEAD_LETTERS))
    assert ("Replay" in page, "Purge" in page) == (True, False)
    assert "takes the role admin" in text_of(web.post(f"{DEAD_LETTERS}/purge", code=403).text)
    with caplog.at_level(logging.INFO, "flux.web"):
        web.post(f"{DEAD_LETTERS}/replay")
    assert "started by olga" in caplog.text
    assert "olga" in text_of(web.get("/jobs"))


def test_a_viewer_cancels_no_replay_of_others_and_every_export() -> None:
    web = made(tokens=read_tokens(f"viewer vera {TOKEN}\noperator olga {OTHERS}"))
    web.post("/login", {"token": OTHERS})
    replay = web.post(f"{DEAD_LETTERS}/replay").headers["location"]
    web.post("/logout")
    web.post("/login", {"token": TOKEN})
    assert "Cancel" not in text_of(web.get(replay))
    web.post(f"{replay}/cancel", code=403)
    web.work()
    export = web.post(f"{DEAD_LETTERS}/export").headers["location"]
    assert "Cancel" in text_of(web.get(export))
    web.post(f"{export}/cancel")


def test_read_only_makes_a_viewer_of_everybody() -> None:
    web = made(token=TOKEN, read_only=True, proxy_login=by_proxy())
    anna = from_(web, PROXY, x_forwarded_user="anna")
    assert sent(anna, web, f"{DEAD_LETTERS}/replay").status_code == 403
    web.post("/login", {"token": TOKEN})
    assert "read-only" in text_of(web.post(f"{DEAD_LETTERS}/purge", code=403).text)


# -- a proxy's header


def test_the_header_is_never_believed_without_the_address_of_a_proxy() -> None:
    with pytest.raises(ConfigurationError, match="--trust-proxy"):
        ProxyLogin("X-Forwarded-User", [])
    for address in ("0.0.0.0/0", "::/0"):
        with pytest.raises(ConfigurationError, match="trusts every visitor"):
            proxies_of([address])
    for address in ("proxy", "10.0.0.7/8", ""):
        with pytest.raises(ConfigurationError, match="no address of a proxy"):
            proxies_of([address])


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.0.0.8", "::1", "testclient", "::ffff:10.0.0.8"])
def test_who_writes_the_header_without_being_the_proxy_gets_nothing(peer: str) -> None:
    web = made(proxy_login=by_proxy())
    for more in ({}, {"x_forwarded_for": PROXY}, {"forwarded": f"for={PROXY}"}, {"x_real_ip": PROXY}):
        client = from_(web, peer, x_forwarded_user="anna", **more)
        for path in ("/", "/events", DEAD_LETTERS, "/login"):
            answer = client.get(path)
            assert "Billing" not in answer.text
            assert answer.status_code == (200 if path == "/login" else 403)


def test_the_server_takes_no_other_address_for_the_peers() -> None:
    """uvicorn would put X-Forwarded-For in its place, where the peer is this machine."""
    from flux.web.app import WebServer

    config = WebServer(made(proxy_login=by_proxy()).context).config
    assert config.proxy_headers is False


@pytest.mark.parametrize("peer", [PROXY, f"::ffff:{PROXY}"])
def test_the_proxy_says_who_it_is_and_the_grants_what_they_may(peer: str) -> None:
    web = made(proxy_login=by_proxy())
    pages = {name: text_of(from_(web, peer, x_forwarded_user=name).get(DEAD_LETTERS).text) for name in ("vera", "anna")}
    assert "vera viewer" in pages["vera"]
    assert "Replay" not in pages["vera"]
    assert "anna admin" in pages["anna"]
    assert "Purge" in pages["anna"]
    assert "Log out" not in pages["anna"], "that is the proxy's"
    for name, replay, purge in (("vera", 403, 403), ("olga", 303, 403), ("anna", 303, 409)):
        client = from_(web, peer, x_forwarded_user=name)
        assert sent(client, web, f"{DEAD_LETTERS}/replay").status_code == replay, name
        assert sent(client, web, f"{DEAD_LETTERS}/purge").status_code == purge, name
        web.work()


def test_a_form_by_a_proxy_needs_its_proof_all_the_same() -> None:
    web = made(proxy_login=by_proxy())
    client = from_(web, PROXY, x_forwarded_user="anna")
    client.get("/")
    for data in ({}, {"proof": "0" * 64}):
        answer = client.post(f"{DEAD_LETTERS}/replay", data=data, headers={"origin": ORIGIN})
        assert answer.status_code == 403
    assert web.context.jobs.all() == []


@pytest.mark.parametrize("values", [["anna", "vera"], ["anna", "anna"], [""], ["  "], ["a" * 201], ["a\x01b"], []])
def test_a_header_that_is_sent_twice_or_holds_no_name_is_nobodys(values: list[str]) -> None:
    web = made(proxy_login=by_proxy())
    headers = [("x-forwarded-user", value) for value in values]
    assert from_(web, PROXY).get("/", headers=headers).status_code == 403


def test_a_name_may_have_any_letters() -> None:
    web = made(proxy_login=by_proxy(users={"Zoë": UserRole.ADMIN}))
    client = from_(web, PROXY)
    page = client.get("/", headers=[(b"x-forwarded-user", "Zoë".encode())])
    assert "Zoë admin" in text_of(page.text)


def test_groups_give_roles_by_a_header_of_their_own() -> None:
    users, groups = grants_of(["operator=olga", "admin=@ops", "operator=@shop"])
    assert (users, groups) == ({"olga": UserRole.OPERATOR}, {"ops": UserRole.ADMIN, "shop": UserRole.OPERATOR})
    login = by_proxy(users=users, groups=groups, groups_header="X-Forwarded-Groups")
    web = made(proxy_login=login)

    def role(name: str, groups: str, peer: str = PROXY) -> str:
        page = from_(web, peer, x_forwarded_user=name, x_forwarded_groups=groups).get("/").text
        return next((role for role in ("viewer", "operator", "admin") if f"{name} {role}" in text_of(page)), "none")

    assert role("vera", "") == "viewer"
    assert role("vera", "hr, shop") == "operator"
    assert role("vera", "ops|shop") == "admin"
    assert role("olga", "hr") == "operator"
    assert role("ops", "hr") == "viewer", "a user is no group of the same name"
    assert role("vera", "olga") == "viewer"
    assert role("vera", "ops", peer="10.0.0.8") == "none"
    twice = [("x-forwarded-user", "vera"), ("x-forwarded-groups", "hr"), ("x-forwarded-groups", "ops")]
    assert "vera viewer" in text_of(from_(web, PROXY).get("/", headers=twice).text)


@pytest.mark.parametrize("grant", ["olga", "operator=", "operator=@", "boss=olga"])
def test_a_grant_that_is_none_is_refused(grant: str) -> None:
    with pytest.raises(ConfigurationError):
        grants_of([grant])


def test_groups_without_their_header_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="--auth-groups-header"):
        by_proxy(groups={"ops": UserRole.ADMIN})
    with pytest.raises(ConfigurationError, match="no name of a header"):
        ProxyLogin("X User", proxies_of([PROXY]))


def test_who_comes_past_the_proxy_may_log_in_with_a_token_where_there_is_one() -> None:
    web = made(token=TOKEN, proxy_login=by_proxy())
    assert from_(web, "10.0.0.8", x_forwarded_user="anna").get("/").headers["location"].startswith("/login")
    web.post("/login", {"token": TOKEN})
    assert "token admin" in text_of(web.get("/"))


# -- who did what


def test_each_action_is_written_down_with_its_user(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    for options in ({}, {"audit_file": file}):
        web = made(tokens=read_tokens(f"admin anna {TOKEN}"), **options)
        web.post("/login", {"token": TOKEN})
        for action, fields in (
            ("export", {}),
            ("replay", {}),
            ("purge", {"name": "Billing", "before": "0:1", "records": "1", "count": "1"}),
        ):
            web.post(f"{DEAD_LETTERS}/{action}", fields)
            web.work()
        found = actions(web.context.tasks[0].audit.read())
        assert [(each.by, each.action) for each in found] == [("anna", "export"), ("anna", "replay"), ("anna", "purge")]
        assert all(each.result and each.task == "Billing" for each in found)
        assert "anna replay" in text_of(web.get(f"{DEAD_LETTERS}/history"))
        in_topic = "flux-audit" in web.context.tasks[0].admin.topic_names(1.0)
        assert in_topic != bool(options), "in the file instead"


def test_pages_that_are_read_only_write_an_export_down_in_a_file_alone(tmp_path: Path) -> None:
    for options in ({}, {"audit_file": tmp_path / "audit.jsonl"}):
        web = made(read_only=True, **options)
        web.post(f"{DEAD_LETTERS}/export")
        web.work()
        assert [each.action for each in web.context.tasks[0].audit.read()] == ["export", "export"] * len(options)
