"""From a manifest's `url:` server to where it is and how the operator is known there."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.core.manifest import ServerSpec
from gateway.core.policy.egress import HostRule, parse_host_rule
from gateway.core.secrets import filled
from gateway.errors import UsageError
from gateway.runtime.remote import RemoteEndpoint
from gateway.runtime.remote_auth import Credentials

__all__ = ["hosts_of", "remote_endpoint"]


def hosts_of(server: ServerSpec) -> tuple[str, ...]:
    """Return the hosts a server at a URL is reached by, as rules name them."""
    urls = [server.url, server.oauth.token_url if server.oauth else None]
    return tuple(_host(url) for url in urls if url is not None)


def remote_endpoint(
    name: str, server: ServerSpec, secrets: Mapping[str, str], egress: tuple[HostRule, ...]
) -> RemoteEndpoint | None:
    """Return a remote server's endpoint, `None` for one that runs here.

    `secrets` and `egress` are what the policy grants; raises `UsageError` where that is not enough.
    """
    if server.url is None:
        return None
    for host in hosts_of(server):
        if not any(rule.covers(parse_host_rule(host)) for rule in egress):
            raise _ungranted(name, "egress", host)
    for secret in server.secrets:
        if secret not in secrets:
            raise _ungranted(name, "secrets", secret)
    headers = {key.lower(): _value(name, key, value, secrets) for key, value in server.headers.items()}
    oauth = None
    if server.oauth is not None:
        secret, scope = secrets[server.oauth.client_secret], server.oauth.scope
        oauth = Credentials(server.oauth.token_url, server.oauth.client_id, secret, scope, server.url)
    return RemoteEndpoint(server.url, headers, oauth)


def _ungranted(name: str, kind: str, what: str) -> UsageError:
    fix = f"add it to the policy: grants: {{{name}: {{{kind}: [{what!r}]}}}}"
    return UsageError(
        f"server {name!r} is elsewhere and needs {what!r}, which the policy does not grant; {fix}"
    )


def _value(name: str, header: str, value: str, secrets: Mapping[str, str]) -> str:
    text = filled(value, secrets)
    if not text.isascii() or not text.isprintable():
        raise UsageError(f"server {name!r}: header {header!r} would hold more than ASCII: check the secret")
    return text


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
