"""What a sandbox is told about the way out, made from what the host has.

The proxy's address goes into every variable that programs look for one in. Of the host's own settings a
sandbox gets those that make installers work as they do outside: package indexes, certificates, time limits.
An index with a password, or on this machine, is given as a name that exists only in the proxy (see
`indexes`). A folder is named only when sandboxes can see it; certificates that they could not see are copied
to where they can.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from daytona_magics.engine.log import hide, log
from daytona_magics.engine.loopback import is_loopback
from daytona_magics.engine.proxy import hostconfig
from daytona_magics.engine.proxy.indexes import IndexSettings, Origin, relay_hosts, relay_url
from daytona_magics.engine.proxy.policy import special
from daytona_magics.engine.proxy.targets import BadTarget, parse_host
from daytona_magics.engine.proxy.upstream import Upstream

INSIDE_URL = "http://127.0.0.1:3128"
"""The proxy's address in a sandbox with a network of its own."""

_NO_PROXY = "localhost,127.0.0.1,::1,.localhost"
_PROXY_NAMES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
)
_NO_PROXY_NAMES = ("NO_PROXY", "no_proxy", "npm_config_noproxy")
_BUNDLES = (
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
)
_PASSED_PIP = ("timeout", "retries", "no-index", "prefer-binary", "only-binary", "no-binary", "pre")


@dataclass(frozen=True)
class Access:
    """What a sandbox needs to use its gate: variables, and the port it must be able to connect to, if any."""

    environment: Mapping[str, str]
    port: int | None


@dataclass(frozen=True)
class HostNetwork:
    """The host's settings about the network.

    Attributes:
        upstream: its proxies.
        indexes: its package indexes.
        variables: what sandboxes are told besides the proxy.
        bundles: copies of certificates, named in ``variables``, that sandboxes must be shown.
    """

    upstream: Upstream = field(default_factory=Upstream)
    indexes: IndexSettings = field(default_factory=IndexSettings)
    variables: Mapping[str, str] = field(default_factory=dict)
    bundles: tuple[str, ...] = ()


def environment(proxy_url: str, host: HostNetwork) -> dict[str, str]:
    """The variables of a sandbox whose gate is at ``proxy_url``."""
    return {
        **dict.fromkeys(_PROXY_NAMES, proxy_url),
        **dict.fromkeys(_NO_PROXY_NAMES, _NO_PROXY),
        # Without it fetch() of Node.js knows no proxy.
        "NODE_USE_ENV_PROXY": "1",
        **host.variables,
    }


def is_about_network(name: str) -> bool:
    """Whether a variable is one of those read here; the engine forgets them after that.

    They may hold passwords, and neither the engine's own requests nor what it starts shall use them.
    """
    lower = name.lower()
    return lower.endswith("_proxy") or lower.startswith(("pip_", "npm_config_"))


def forget(environ: MutableMapping[str, str]) -> None:
    """Remove what `is_about_network` from ``environ``."""
    for name in [name for name in environ if is_about_network(name)]:
        del environ[name]


def read_host(
    environ: Mapping[str, str] | None = None,
    home: Path | None = None,
    visible: Callable[[str], bool] = lambda path: False,
    copies: Path | None = None,
) -> HostNetwork:
    """Read the host's settings.

    Args:
        environ: variables; the process's own by default.
        home: the user's home folder.
        visible: whether sandboxes can see a path.
        copies: folder for copies of certificates that they cannot see; None: those are not passed on.
    """
    environ = dict(os.environ if environ is None else environ)
    home = home or Path(environ.get("HOME") or "/")
    pip, npm = hostconfig.pip_settings(environ, home), hostconfig.npm_settings(environ, home)
    trusted = pip.get("trusted-host", "").split()
    reading = _Reading(environ, home, visible, copies, pip.get("cert", ""), trusted)
    variables = reading.pip(pip)
    variables |= reading.npm(npm)
    for name in _BUNDLES:
        if environ.get(name) and (shown := reading.show(environ[name])):
            variables[name] = shown
    return HostNetwork(
        Upstream.of(environ, pip.get("proxy") or npm.get("https-proxy") or npm.get("proxy") or ""),
        IndexSettings(tuple(reading.relayed), frozenset(reading.direct)),
        variables,
        tuple(dict.fromkeys(reading.bundles)),
    )


class _Reading:
    """Turns the host's settings into a sandbox's, collecting indexes and certificate files on the way."""

    def __init__(
        self,
        environ: Mapping[str, str],
        home: Path,
        visible: Callable[[str], bool],
        copies: Path | None,
        cert: str,
        trusted: list[str],
    ) -> None:
        self._environ, self._home, self._visible, self._copies = environ, home, visible, copies
        self._cert = str(Path(cert).expanduser()) if cert else ""
        self._trusted = trusted
        self.relayed: list[Origin] = []
        self.direct: set[tuple[str, int]] = set()
        self.bundles: list[str] = []

    def pip(self, pip: Mapping[str, str]) -> dict[str, str]:
        """The ``PIP_…`` variables, and those of uv that mean the same."""
        found = {f"PIP_{name.upper().replace('-', '_')}": pip[name] for name in _PASSED_PIP if pip.get(name)}
        main = self._index(pip.get("index-url", "").strip())
        extra = self._all(pip.get("extra-index-url", "").split())
        links = self._all(pip.get("find-links", "").split())
        if main:
            found |= {"PIP_INDEX_URL": main, "UV_DEFAULT_INDEX": main}
        if extra:
            found |= {"PIP_EXTRA_INDEX_URL": " ".join(extra), "UV_INDEX": " ".join(extra)}
        if links:
            found["PIP_FIND_LINKS"] = " ".join(links)
        trusted = [*self._trusted, *relay_hosts(len(self.relayed))]
        if trusted:
            found["PIP_TRUSTED_HOST"] = " ".join(trusted)
        if self._cert and (shown := self.show(self._cert)):
            found["PIP_CERT"] = shown
        return found

    def npm(self, npm: Mapping[str, str]) -> dict[str, str]:
        """npm's registry and certificates."""
        found: dict[str, str] = {}
        if registry := npm.get("registry", ""):
            parts = urlsplit(registry)
            place = f"//{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/"
            token = npm.get(f"{place}:_authToken") or npm.get(f"{place}:_auth") or ""
            kind = "Bearer" if npm.get(f"{place}:_authToken") else "Basic"
            if token:
                hide(token)
            if given := self._index(registry, f"{kind} {token}" if token else ""):
                found |= {"npm_config_registry": given, "YARN_NPM_REGISTRY_SERVER": given}
        if shown := self.show(npm.get("cafile", "")):
            found["npm_config_cafile"] = shown
        if npm.get("strict-ssl") == "false":
            found["npm_config_strict_ssl"] = "false"
        return found

    def _all(self, urls: Iterable[str]) -> list[str]:
        return [given for url in urls if (given := self._index(url))]

    def _index(self, url: str, authorization: str = "") -> str:
        """An index, or a place with packages, as a sandbox is told of it; empty when of no use there."""
        if not url:
            return ""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return ""
        if parts.scheme not in ("http", "https") or not host:
            path = unquote(parts.path) if parts.scheme in ("", "file") else ""
            return url if path.startswith("/") and self._visible(path) else ""
        authorization = authorization or self._password(parts.username, parts.password, host)
        plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        try:
            address = parse_host(f"[{host}]" if ":" in host else host)[1]
        except BadTarget:
            log.warning("the package index at host %s is not passed on: its name cannot be used", host)
            return ""
        if not authorization and not is_loopback(host) and (address is None or special(address) is None):
            self.direct.add((host.lower(), port or (443 if parts.scheme == "https" else 80)))
            return plain
        verify = not {host, f"{host}:{port}"} & set(self._trusted)
        # As pip itself: its own setting, else those of the library it uses.
        names = (self._cert, *(self._environ.get(n, "") for n in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")))
        cafile = next((name for name in names if name and Path(name).is_file()), "")
        self.relayed.append(Origin(plain, authorization, cafile, verify))
        return relay_url(len(self.relayed) - 1, plain)

    def _password(self, user: str | None, password: str | None, host: str) -> str:
        """The value of the Authorization header, empty when the host has no password for the index."""
        if user is None:
            found = hostconfig.netrc_password(host, self._environ, self._home)
            if found is None:
                return ""
            user, password = found
        else:
            user, password = unquote(user), unquote(password or "")
        if password:
            hide(password)
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        return f"Basic {pair}"

    def show(self, path: str) -> str:
        """The path at which sandboxes see a certificate file or folder; empty when they cannot."""
        if not path.startswith("/") or not Path(path).exists():
            return ""
        if self._visible(path):
            return path
        try:
            content = Path(path).read_bytes()
            # Some keep the key beside the certificate.
            if self._copies is None or b"PRIVATE KEY" in content:
                return ""
            self._copies.mkdir(exist_ok=True)
            self._copies.chmod(0o711)
            copy = self._copies / f"{hashlib.sha256(content).hexdigest()[:16]}.pem"
            copy.write_bytes(content)
            copy.chmod(0o644)
        except OSError as error:
            log.warning("the certificates in %s are not passed on: %s", path, error.strerror)
            return ""
        self.bundles.append(str(copy))
        return str(copy)
