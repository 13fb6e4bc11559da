"""What may be reached: lists as the platform takes them, targets with one spelling, addresses by meaning."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from daytona_magics.engine.api.models import parse_create
from daytona_magics.engine.api.network import changed
from daytona_magics.engine.errors import ApiError
from daytona_magics.engine.proxy.hostconfig import pip_settings
from daytona_magics.engine.proxy.indexes import Index, Origin
from daytona_magics.engine.proxy.policy import BadList, Policy, is_own, parse_cidrs, parse_domains
from daytona_magics.engine.proxy.settings import forget, read_host
from daytona_magics.engine.proxy.targets import BadTarget, Target, parse_authority
from daytona_magics.engine.proxy.upstream import Upstream, parse_proxy


def verdict(policy: Policy, authority: str, *resolved: str) -> str:
    target = parse_authority(authority, 443)
    address = ipaddress.ip_address(resolved[0]) if resolved else target.address
    return policy.refusal(target, address)


def test_cidr_lists_are_read_as_the_platform_reads_them() -> None:
    assert parse_cidrs("") == parse_cidrs("  ") == ()
    assert [str(n) for n in parse_cidrs(" 192.168.1.0/16 ,\t10.0.0.1/32, 0.0.0.0/0 ")] == [
        "192.168.0.0/16",
        "10.0.0.1/32",
        "0.0.0.0/0",
    ]
    assert len(parse_cidrs(",".join(["10.0.0.0/8"] * 10))) == 10
    with pytest.raises(BadList, match="11 entries; 10 are allowed"):
        parse_cidrs(",".join(["10.0.0.0/8"] * 11))


@pytest.mark.parametrize(
    "entry",
    [
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/08",
        "10.0.0/8",
        "256.0.0.0/8",
        "010.0.0.0/8",
        "0x0a.0.0.0/8",
        "10.0.0.0/255.0.0.0",
        "::/0",
        "pypi.org",
        "https://10.0.0.0/8",
        "10.0.0.0/8,,10.0.0.0/8",
        "10.0.0.0 /8",
        "10.0.0.0/8\n",
        "١٠.0.0.0/8",
    ],
)
def test_what_is_no_ipv4_cidr_is_refused(entry: str) -> None:
    if entry.strip() == "10.0.0.0/8":
        assert parse_cidrs(entry)
        return
    with pytest.raises(BadList):
        parse_cidrs(entry)


def test_domain_lists() -> None:
    assert parse_domains("PyPI.org., *.Example.com ,bücher.example,pypi.org") == (
        "pypi.org",
        "*.example.com",
        "xn--bcher-kva.example",
    )
    for wrong in (
        "https://pypi.org",
        "pypi.org/simple",
        "pypi.org:443",
        "*",
        "*.",
        "a.*.b",
        "1.2.3.4",
        "a..b",
        "-a",
    ):
        with pytest.raises(BadList):
            parse_domains(wrong)
    policy = Policy.parse(domain_list="pypi.org,*.example.com")
    public = "198.51.100.7"
    for passes in ("pypi.org", "PyPI.ORG.", "a.example.com", "a.b.example.com"):
        assert verdict(policy, passes, public) == "", passes
    for refused in (
        "example.com",
        "notpypi.org",
        "pypi.org.evil.test",
        "a.pypi.org",
        "badexample.com",
        public,
    ):
        assert "may reach only pypi.org, *.example.com" in verdict(policy, refused, public), refused


@pytest.mark.parametrize(
    "text",
    [
        *("0177.0.0.1:80", "0x7f.0.0.1:80", "2130706433:80", "0x7f000001:80", "127.1:80", "127.0.0.1.:80x"),
        *(
            "010.0.0.1:80",
            "127.0.0.01:80",
            "a.0x7f:80",
            "1.2.3.4.5:80",
            "[fe80::1%eth0]:80",
            "[fe80::1%25lo]:80",
        ),
        *(
            "user@host:80",
            "user:pw@127.0.0.1:80",
            "evil.test#@pypi.org:443",
            "ho st:80",
            "host:80:80",
            "host:",
        ),
        *(
            "host:0",
            "host:65536",
            "host:-1",
            "host:+80",
            "host:٨٠",
            ":80",
            "[]:80",
            "[::1:80",
            "::1:80",
            "[1.2.3.4]:80",
        ),
        *(
            "host\r\nX: y:80",
            "ho%73t:80",
            "a..b:80",
            ".a:80",
            "b\\c:80",
            "①②⑦.⓪.⓪.①:80",
            "ⅼocalhost:80",
            "a" * 64 + ":80",
        ),
    ],
)
def test_targets_with_more_than_one_reading_are_refused(text: str) -> None:
    with pytest.raises(BadTarget):
        parse_authority(text)


def test_targets_have_one_spelling() -> None:
    assert parse_authority("PyPI.Org.:443") == Target("pypi.org", 443)
    assert parse_authority("[2001:DB8:0::1]:1") == Target(
        "2001:db8::1", 1, ipaddress.ip_address("2001:db8::1")
    )
    assert parse_authority("127.0.0.1.:65535") == Target(
        "127.0.0.1", 65535, ipaddress.ip_address("127.0.0.1")
    )
    assert str(parse_authority("[::1]:80")) == "[::1]:80"
    assert parse_authority("xn--bcher-kva.example:443").host == "xn--bcher-kva.example"


PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.0.1", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "168.63.129.16"),
    *("192.0.0.192", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1"),
    *(
        "64:ff9b::10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001::1",
    ),
    *("fd00:ec2::254", "fc00::1", "fe80::1", "fec0::1", "ff02::1", "100::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_need_a_cidr_that_names_them(address: str) -> None:
    for policy in (Policy(), Policy.parse(allow_list="0.0.0.0/0"), Policy.parse(domain_list="name.test")):
        assert "not public" in verdict(policy, "name.test", address)
        bare = f"[{address}]" if ":" in address else address
        assert "not public" in verdict(policy, bare)
    meant: Any = ipaddress.ip_address(address)
    four = meant if meant.version == 4 else meant.ipv4_mapped
    if four is not None:
        listed = Policy.parse(allow_list=f"{four}/32")
        assert verdict(listed, "name.test", address) == verdict(listed, str(four)) == ""


@pytest.mark.parametrize(
    "address",
    [
        *(
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.80",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "9.255.255.255",
        ),
        *("2606:4700::1111", "2001:db8::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"),
    ],
)
def test_public_and_documentation_addresses_pass(address: str) -> None:
    assert verdict(Policy(), "name.test", address) == ""
    assert "network-block-all" in verdict(Policy(block_all=True), "name.test", address)


def test_this_machines_own_addresses_are_not_public() -> None:
    own = Policy(own=lambda address: str(address) == "203.0.113.9")
    assert "this machine" in verdict(own, "203.0.113.9")
    assert verdict(own, "203.0.113.10") == ""
    listed = Policy(cidrs=parse_cidrs("203.0.113.9/32"), own=own.own)
    assert verdict(listed, "203.0.113.9") == ""
    wide = Policy(cidrs=parse_cidrs("203.0.113.0/24"), own=own.own)
    assert "this machine" in verdict(wide, "203.0.113.9")
    assert is_own(ipaddress.ip_address("127.0.0.1")) and not is_own(ipaddress.ip_address("203.0.113.80"))


def test_lists_and_ports() -> None:
    both = Policy.parse(allow_list="198.51.100.0/24", domain_list="pypi.org")
    assert verdict(both, "anything.test", "198.51.100.9") == verdict(both, "pypi.org", "203.0.113.1") == ""
    assert "may reach only" in verdict(both, "anything.test", "203.0.113.1")
    assert "needs an allow list that names the host" in verdict(Policy(), "github.com:22", "203.0.113.1")
    assert "UDP, ICMP and raw TCP do not exist" in verdict(Policy(), "github.com:22", "203.0.113.1")
    assert "mail" in verdict(Policy(), "mail.test:25", "203.0.113.1")
    assert verdict(both, "pypi.org:22", "203.0.113.1") == verdict(both, "198.51.100.1:22") == ""
    assert verdict(Policy.parse(block_all=True, allow_list="0.0.0.0/0"), "pypi.org", "203.0.113.1")
    # Ten lists are short in an answer.
    many = Policy.parse(domain_list=",".join(f"name-{n}.example.com" for n in range(100)))
    assert len(verdict(many, "pypi.org", "203.0.113.1")) < 300


def test_names_that_only_the_hosts_proxy_can_resolve() -> None:
    def by_name(policy: Policy, name: str) -> str:
        return policy.refusal(parse_authority(name, 443), None)

    assert by_name(Policy(), "pypi.org") == ""
    for local in ("localhost", "a.localhost", "intranet", "metadata.google.internal", "nas.local"):
        assert "not a public name" in by_name(Policy(), local)
    listed = Policy.parse(domain_list="metadata.google.internal,localhost")
    assert by_name(listed, "metadata.google.internal") == "" != by_name(listed, "localhost")
    assert "may reach only" in by_name(Policy.parse(allow_list="0.0.0.0/0"), "pypi.org")


def test_a_change_of_settings() -> None:
    lists = {"networkAllowList": "10.0.0.0/8", "domainAllowList": "pypi.org", "other": 1}
    assert changed(lists, {"networkBlockAll": True}) == {"networkBlockAll": True, "other": 1}
    assert changed(lists, {"networkBlockAll": False}) == {"networkBlockAll": False, "other": 1}
    assert changed(lists, {"networkBlockAll": True, "networkAllowList": "1.1.1.1/32"}) == {
        "networkBlockAll": True,
        "other": 1,
    }
    assert changed(lists, {"networkAllowList": ""}) == {"domainAllowList": "pypi.org", "other": 1}
    after = changed({"networkBlockAll": True}, {"networkAllowList": " 10.0.0.0/8 , 1.0.0.0/8"})
    assert after == {"networkBlockAll": False, "networkAllowList": "10.0.0.0/8,1.0.0.0/8"}
    assert changed({"networkBlockAll": True}, {"networkAllowList": ""}) == {"networkBlockAll": True}
    for wrong in ({}, {"networkBlockAll": None}, {"networkBlockAll": "yes"}, {"networkAllowList": 1}):
        with pytest.raises(ApiError):
            changed({}, wrong)
    assert parse_create({"networkAllowList": "10.0.0.0/8"}).options == {"networkAllowList": "10.0.0.0/8"}


def test_the_hosts_proxies() -> None:
    up = Upstream.of(
        {
            "HTTPS_PROXY": "http://me:p%40ss@proxy.corp:3128",
            "no_proxy": "localhost, .corp,10.0.0.0/8,x.test:8443",
        }
    )
    proxy = up.for_(parse_authority("pypi.org:443"), tunnel=True)
    assert proxy and (proxy.host, proxy.port, proxy.user, proxy.password) == (
        "proxy.corp",
        3128,
        "me",
        "p@ss",
    )
    assert "p@ss" not in repr(up)
    assert up.for_(parse_authority("pypi.org:80"), tunnel=False) is None
    for direct in ("git.corp:443", "corp:443", "10.1.2.3:443", "x.test:8443", "localhost:1"):
        assert up.for_(parse_authority(direct), tunnel=True) is None, direct
    for through in ("notcorp:443", "11.1.2.3:443", "x.test:443"):
        assert up.for_(parse_authority(through), tunnel=True) is not None, through
    assert not Upstream.of({}) and Upstream.of({}, "http://fallback:1").https == parse_proxy("fallback:1")
    assert (
        Upstream.of({"no_proxy": "*", "all_proxy": "p:1"}).for_(parse_authority("a:1"), tunnel=True) is None
    )
    socks = parse_proxy("socks5://p:1080")
    assert socks and "cannot chain" in socks.problem.replace("\n", " ")


def test_what_a_sandbox_is_told_of_the_hosts_indexes(tmp_path: Path) -> None:
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").write_text(
        "[global]\nindex-url = https://me:s%3Acret@index.corp:8443/root/simple\ntimeout = 7\n"
        "trusted-host = old.test\n[install]\nextra-index-url =\n    https://open.test/simple\n"
        "    http://localhost:3141/dev/\n    https://netrc.test/simple\n"
        "find-links = /secret/wheels /usr/wheels\n"
    )
    (tmp_path / ".netrc").write_text("machine netrc.test login n password nsecret\n")
    (tmp_path / ".netrc").chmod(0o600)
    (tmp_path / ".npmrc").write_text("registry=https://npm.corp/reg/\n//npm.corp/reg/:_authToken=${NPM_T}\n")
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    environ = {
        "PIP_TIMEOUT": "9",
        "NPM_T": "ntoken",
        "REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem"),
        "CURL_CA_BUNDLE": str(tmp_path / "key.pem"),
        "HTTPS_PROXY": "http://u:proxysecret@p:1",
    }
    host = read_host(environ, tmp_path, lambda path: path.startswith("/usr"), tmp_path / "copies")
    told = host.variables
    assert told["PIP_INDEX_URL"] == "http://index-0.daytona-magics.invalid/root/simple"
    assert told["PIP_EXTRA_INDEX_URL"].split() == [
        "https://open.test/simple",
        "http://index-1.daytona-magics.invalid/dev/",
        "http://index-2.daytona-magics.invalid/simple",
    ]
    assert told["PIP_FIND_LINKS"] == "/usr/wheels" and told["PIP_TIMEOUT"] == "9"
    assert (
        "old.test" in told["PIP_TRUSTED_HOST"]
        and "index-2.daytona-magics.invalid" in told["PIP_TRUSTED_HOST"]
    )
    assert told["npm_config_registry"] == "http://index-3.daytona-magics.invalid/reg/"
    assert told["REQUESTS_CA_BUNDLE"] == host.bundles[-1]
    assert Path(host.bundles[-1]).read_text() == (tmp_path / "ca.pem").read_text()
    assert "CURL_CA_BUNDLE" not in told
    assert host.indexes.direct == {("open.test", 443)}
    assert host.indexes.relayed[3].authorization == "Bearer ntoken"
    for secret in ("s:cret", "s%3Acret", "nsecret", "ntoken", "proxysecret", "secret"):
        assert secret not in repr(told) and secret not in repr(host)
    left = {"PIP_INDEX_URL": "x", "https_proxy": "x", "npm_config_registry": "x", "PATH": "y"}
    forget(left)
    assert left == {"PATH": "y"}


def test_pip_reads_its_settings_in_this_order(tmp_path: Path) -> None:
    for folder, text in (
        (".pip", "[global]\ntimeout=1\nproxy=a:1\n"),
        (".config/pip", "[global]\ntimeout=2\n"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "pip.conf").write_text(text)
    (tmp_path / "pip.conf").write_text("[install]\nindex_url = site\n[global]\nindex-url = no\n")
    found = pip_settings({"PIP_NO_INDEX": "", "PIP_DEFAULT_TIMEOUT": "4"}, tmp_path, str(tmp_path))
    assert found["timeout"] == "4" and found["proxy"] == "a:1" and found["index-url"] == "site"
    assert pip_settings({"PIP_CONFIG_FILE": "/dev/null"}, tmp_path, str(tmp_path)) == {}


def test_links_of_an_index() -> None:
    index = Index(Origin("https://i.test/root/simple/"), "http://index-0.x", b"k")
    page = "https://i.test/root/simple/six/"
    inside = index.rewritten("six-1.whl#sha256=0", page)
    assert inside == "http://index-0.x/root/simple/six/six-1.whl#sha256=0"
    away = index.rewritten("../../../files/six-1.whl?a=1#sha256=0", page)
    assert away.startswith("http://index-0.x/.dm-") and away.endswith("/files/six-1.whl?a=1#sha256=0")
    for other in ("https://files.test/six.whl", "http://i.test/x", "https://i.test:8443/x", "https://[bad/x"):
        assert index.rewritten(other, page) == other
    html = b'<a class="a" href=\'/f/a&amp;b.whl\' data-x="1">a</a>'
    made = index.rewrite_page(html, b"text/html", page)
    assert b'class="a" href="http://index-0.x/.dm-' in made and b'/f/a&amp;b.whl" data-x="1"' in made
    doc = b'{"files": [{"url": "/f/x.whl", "name": "/f/x.whl"}], "versions": ["1"]}'
    assert index.rewrite_page(doc, b"application/json", page).count(b"index-0.x") == 1
