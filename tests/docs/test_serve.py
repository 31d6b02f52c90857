"""docs/serve.md: its numbers are the recorded ones, its limits those of the code, and its examples parse."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from r2t2_jax.cli.main import COMMANDS
from r2t2_jax.cli.parsing import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "serving.json"


def test_the_results_are_those_recorded() -> None:
    number = r" ([\d.]+) \|"
    recorded = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = re.findall(rf"^\| `(\w+)` \|{9 * number}$", PAGE, re.MULTILINE)
    names = {"per_second": 1, "p50_ms": 1, "p99_ms": 1, "bare_per_second": 1, "ratio": 2}
    names |= {"server_cpu_ms": 2, "client_cpu_ms": 2, "bare_cpu_ms": 2}
    expected = [
        (row["strategy"], str(row["clients"]), *(f"{row[name]:.{digits}f}" for name, digits in names.items()))
        for row in recorded["rows"]
    ]
    assert rows == expected
    assert f"{recorded['machine']}, {recorded['date']}" in PAGE and f"n = {recorded['requests']}" in PAGE
    assert f"Other processes used {recorded['busy_cores_before']:.1f} of {recorded['cores']} cores" in PAGE


def test_the_limits_are_those_of_the_code() -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from r2t2_jax.serve import guard, images, schemas

    for number in (guard.MAX_BODY >> 20, images.MAX_ENCODED >> 20, guard.MAX_HEADERS >> 10):
        assert re.search(rf"\b{number} [MK]iB", PAGE)
    assert f"{images.MAX_PIXELS:,} pixels" in PAGE and images.MAX_DECODED == 1 << 30
    assert f"{schemas.MAX_PROMPT:,} characters" in PAGE and f"{guard.BODY_SECONDS:.0f} s" in PAGE
    assert all(f"`{name}`" in PAGE for name in schemas.RETURNS)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [
    (line.split()[0], line.partition(" ")[2].strip())
    for line in DOCKERFILE.replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def instructions(name: str) -> list[str]:
    return [rest for kind, rest in INSTRUCTIONS if kind == name]


def test_the_container_runs_without_privileges_and_with_a_key() -> None:
    kinds = [kind for kind, _ in INSTRUCTIONS]
    (user,), (command,) = instructions("USER"), instructions("CMD")
    assert kinds.index("USER") < kinds.index("ENTRYPOINT") and "RUN" not in kinds[kinds.index("USER") :]
    assert user.isdigit() and int(user) >= 1000 and f"--uid {user} " in DOCKERFILE
    assert "--api-key-file" in command and not {"ADD", "MAINTAINER"} & set(kinds)
    assert not re.search(r"sudo|chmod 777|apt-get", " ".join(instructions("RUN")))


def test_the_container_is_pinned_keeps_no_cache_and_checks_its_health() -> None:
    (base,), (install,), (health,) = instructions("FROM"), instructions("RUN")[1:], instructions("HEALTHCHECK")
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base)
    assert "--no-cache-dir" in install and "--constraint constraints.txt" in install
    assert "/ready" in health and "timeout" in health and instructions("STOPSIGNAL") == ["SIGTERM"]


def test_what_the_container_copies_exists_and_is_in_its_context() -> None:
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    sources = [source for copied in instructions("COPY") for source in copied.split()[:-1]]
    assert ignore[0] == "**" and {f"!{source}" for source in sources} == {line for line in ignore if line[0] == "!"}
    assert all((ROOT / source).exists() for source in sources)
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]
    assert {*targets["wheel"]["packages"], *PROJECT["project"]["license-files"]} <= set(sources)


def test_the_options_and_extras_of_the_container_exist() -> None:
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    words = [*json.loads(entry), *json.loads(command)]
    assert words[0] == "r2t2" and parse(COMMANDS, words[1:])
    assert instructions("EXPOSE") == [words[words.index("--port") + 1]]
    named = re.findall(r"EXTRAS=([\w,]+)", DOCKERFILE)
    assert len(named) == 2
    assert {extra for each in named for extra in each.split(",")} <= set(PROJECT["project"]["optional-dependencies"])
