from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from killatamata import embedded_postgres
from killatamata.embedded_postgres import (
    DataFolderInUse,
    EmbeddedPostgres,
    NotACluster,
    ServerFailed,
    SocketPathUnusable,
    WrongMajorVersion,
    WrongOwner,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="shows what root does")

OWNER = """
import sys, time
from pathlib import Path
from killatamata.embedded_postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]) / "pg18", Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
server.stop()
"""
"""A process that owns a server until its standard input ends."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A short private folder: a socket's path must fit in an AF_UNIX address."""
    with tempfile.TemporaryDirectory(prefix="kt-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def server(place: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(place / "pg18", place)
    yield server
    server.stop()


async def query(dsn: str, *statements: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


def owner(place: Path, *prefix: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", OWNER, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return int(line)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def ended(pid: int, within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def capabilities(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16)


async def test_an_empty_folder_becomes_a_durable_cluster(server: EmbeddedPostgres, place: Path) -> None:
    dsn = server.start()
    assert server.dsn == dsn
    assert await query(dsn, "SELECT current_database()") == "killatamata"
    assert (place / "pg18" / "PG_VERSION").read_text().strip() == "18"
    shown = {
        name: await query(dsn, f"SHOW {name}")
        for name in ("data_checksums", "fsync", "synchronous_commit", "server_encoding", "listen_addresses")
    }
    assert shown == {
        "data_checksums": "on",
        "fsync": "on",
        "synchronous_commit": "on",
        "server_encoding": "UTF8",
        "listen_addresses": "",
    }
    assert await query(dsn, "SELECT lower('ÀÉ')") == "àé"
    assert server.pid is not None
    assert psutil.Process(server.pid).net_connections("tcp") == []


async def test_the_socket_is_closed_to_others(server: EmbeddedPostgres, place: Path) -> None:
    server.start()
    assert (place / "pg").stat().st_mode & 0o777 == 0o700
    assert (place / "pg" / ".s.PGSQL.5432").stat().st_mode & 0o777 == 0o700


async def test_stop_ends_it_and_the_data_come_back(server: EmbeddedPostgres, place: Path) -> None:
    dsn = server.start()
    await query(dsn, "CREATE TABLE kept AS SELECT 7 AS n", "SELECT 1")
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert server.pid is None
    assert ended(pid, within=0.2)
    assert not (place / "pg18" / "postmaster.pid").exists()
    assert await query(server.start(), "SELECT n FROM kept") == 7


async def test_start_again_changes_nothing_and_restart_changes_the_process(server: EmbeddedPostgres) -> None:
    dsn = server.start()
    pid = server.pid
    assert server.start() == dsn
    assert server.pid == pid
    assert server.restart() == dsn
    assert server.pid not in (None, pid)
    assert await query(dsn, "SELECT 1") == 1


async def test_stop_does_not_wait_for_clients(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.start())
    sleeping = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await asyncio.to_thread(server.stop)
    assert time.monotonic() - began < 10
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await sleeping


async def test_a_dropped_database_is_made_again(server: EmbeddedPostgres) -> None:
    dsn = server.start()
    await query(dsn.replace("/killatamata?", "/postgres?"), "DROP DATABASE killatamata", "SELECT 1")
    assert await query(server.restart(), "SELECT current_database()") == "killatamata"


async def test_ctrl_c_in_the_terminal_does_not_reach_it(server: EmbeddedPostgres) -> None:
    server.start()
    assert server.pid is not None
    assert os.getsid(server.pid) == server.pid


async def test_the_environment_does_not_reach_it(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = {"PGDATA": "/nowhere", "PGPORT": "1", "PGOPTIONS": "-c fsync=off", "PGHOST": "nowhere", "PGUSER": "eve"}
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    dsn = server.start()
    assert await query(dsn, "SHOW fsync") == "on"
    assert await query(dsn, "SELECT current_user::text") == "postgres"


async def test_an_awkward_folder_name(place: Path) -> None:
    awkward = place / "a b&c%2f;\"d'=é"
    awkward.mkdir()
    server = EmbeddedPostgres(awkward / "pg18", awkward)
    try:
        assert await query(server.start(), "SELECT 1") == 1
    finally:
        server.stop()
    assert (awkward / "pg").is_dir()


@pytest.mark.parametrize("name", ["d" * 90, "a,b"])
def test_a_folder_no_socket_can_lie_in_is_refused_before_anything_is_made(place: Path, name: str) -> None:
    (place / name).mkdir()
    with pytest.raises(SocketPathUnusable, match="shorter"):
        EmbeddedPostgres(place / "pg18", place / name).start()
    assert [file.name for file in place.iterdir()] == [name]


async def test_initdb_killed_half_way_is_done_again(server: EmbeddedPostgres, place: Path) -> None:
    process = owner(place)
    deadline = time.monotonic() + 20
    while not any(place.glob("pg18.new-*/base/1/*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill(process)
    assert not (place / "pg18").exists()
    assert await query(server.start(), "SELECT 1") == 1
    assert [folder.name for folder in place.glob("pg18*") if folder.is_dir()] == ["pg18"]


async def test_the_server_of_a_killed_predecessor_is_ended(server: EmbeddedPostgres, place: Path) -> None:
    process = owner(place)
    old = first_line(process)
    await query(server.dsn, "CREATE TABLE kept AS SELECT 7 AS n", "SELECT 1")
    kill(process)
    assert not ended(old, within=0.5)
    assert await query(server.start(), "SELECT n FROM kept") == 7
    assert server.pid != old
    assert ended(old, within=0.2)


async def test_a_killed_server_recovers_though_a_backend_was_busy(server: EmbeddedPostgres) -> None:
    dsn = server.start()
    await query(dsn, "CREATE TABLE kept AS SELECT 7 AS n", "SELECT 1")
    connection = await asyncpg.connect(dsn)
    busy = asyncio.create_task(connection.execute("SELECT sum(sqrt(n)) FROM generate_series(1, 8000000) n"))
    await asyncio.sleep(0.3)
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    assert server.pid is None
    await asyncio.to_thread(server.start)
    await asyncio.gather(busy, return_exceptions=True)
    connection.terminate()
    assert await query(dsn, "SELECT n FROM kept") == 7


async def test_a_killed_server_comes_back_though_many_backends_log_its_death(server: EmbeddedPostgres) -> None:
    """One of them still holds the memory; what all the others wrote must not hide that."""
    dsn = server.start()
    connections = [await asyncpg.connect(dsn) for _ in range(30)]
    holder = psutil.Process(await connections[0].fetchval("SELECT pg_backend_pid()"))
    pid = server.pid
    assert pid is not None
    holder.suspend()
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    await asyncio.sleep(1)
    holder.resume()
    assert await query(await starting, "SELECT 1") == 1
    for connection in connections:
        connection.terminate()


@pytest.mark.parametrize("written", ["the pid of another process", "", "0\n", "-1\n", "no number\n", "99999999\n"])
async def test_a_stale_pid_file_harms_nobody(server: EmbeddedPostgres, place: Path, written: str) -> None:
    server.start()
    server.stop()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        if written.startswith("the"):
            written = f"{bystander.pid}\n{place / 'pg18'}\n{int(time.time())}\n5432\n{place}\n\n\nready\n"
        (place / "pg18" / "postmaster.pid").write_text(written)
        assert await query(server.start(), "SELECT 1") == 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_cluster_of_another_major_version_is_left_alone(server: EmbeddedPostgres, place: Path) -> None:
    (place / "pg18").mkdir()
    (place / "pg18" / "PG_VERSION").write_text("17\n")
    with pytest.raises(WrongMajorVersion, match=r"PostgreSQL 17.*pg_dump"):
        server.start()
    assert [file.name for file in (place / "pg18").iterdir()] == ["PG_VERSION"]


def test_a_folder_of_something_else_is_left_alone(server: EmbeddedPostgres, place: Path) -> None:
    (place / "pg18").mkdir()
    (place / "pg18" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(NotACluster, match="move it away"):
        server.start()
    assert (place / "pg18" / "thesis.txt").read_text() == "ten years of work"


async def test_an_empty_existing_folder_is_used(server: EmbeddedPostgres, place: Path) -> None:
    (place / "pg18").mkdir()
    assert await query(server.start(), "SELECT 1") == 1


async def test_of_two_starts_at_once_one_wins(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "_LOCK_WAIT_S", 0.3)
    servers = [EmbeddedPostgres(place / "pg18", place) for _ in range(4)]
    outcomes: list[object] = []
    together = threading.Barrier(len(servers))

    def start(server: EmbeddedPostgres) -> None:
        together.wait()
        try:
            outcomes.append(server.start())
        except DataFolderInUse as refusal:
            outcomes.append(refusal)

    threads = [threading.Thread(target=start, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        refusals = [outcome for outcome in outcomes if isinstance(outcome, DataFolderInUse)]
        assert len(refusals) == 3
        assert all(str(os.getpid()) in str(refusal) for refusal in refusals)
        assert [server.pid is not None for server in servers].count(True) == 1
        assert await query(servers[0].dsn, "SELECT 1") == 1
    finally:
        for server in servers:
            server.stop()
    assert await query(servers[1].start(), "SELECT 1") == 1
    servers[1].stop()


async def test_a_live_owner_in_another_process_is_not_disturbed(
    server: EmbeddedPostgres, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_postgres, "_LOCK_WAIT_S", 0.2)
    process = owner(place)
    pid = first_line(process)
    try:
        with pytest.raises(DataFolderInUse, match=str(process.pid)):
            server.start()
        assert await query(server.dsn, "SELECT 1") == 1
    finally:
        process.communicate()
    assert process.returncode == 0
    assert ended(pid)


async def test_an_owner_on_its_way_out_is_waited_for(server: EmbeddedPostgres, place: Path) -> None:
    process = owner(place)
    first_line(process)
    leaving = threading.Timer(1.0, process.communicate)
    leaving.start()
    assert await query(server.start(), "SELECT 1") == 1
    leaving.join()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing_behind(server: EmbeddedPostgres, place: Path) -> None:
    server.start()
    server.stop()
    (place / "pg18" / "global" / "pg_control").unlink()
    for _ in range(2):
        with pytest.raises(ServerFailed, match="pg_control"):
            server.start()
        assert server.pid is None


def test_initdb_that_fails_says_why_and_leaves_nothing_behind(
    server: EmbeddedPostgres, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_postgres, "USER", "pg_reserved")
    with pytest.raises(ServerFailed, match="pg_"):
        server.start()
    assert [file.name for file in place.iterdir()] == ["pg18.lock"]


def modes(path: Path) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for folder in (path, *path.parents):
        status = folder.stat()
        found[folder] = (status.st_mode, status.st_uid, status.st_gid)
    return found


@as_root
@pytest.mark.parametrize("where", ["home", "/tmp"])
async def test_root_opens_no_folder_and_makes_no_user(where: str, place: Path) -> None:
    parent = Path.home() if where == "home" else Path(where)
    private = Path(tempfile.mkdtemp(prefix="kt-", dir=parent))
    data = private / "data" / "pg18"
    data.parent.mkdir(mode=0o700)
    (data.parent / "secret").write_text("mine")
    bystanders = [data.parent, data.parent / "secret", place, embedded_postgres.binaries()]
    before = [modes(path) for path in bystanders]
    users = Path("/etc/passwd").read_bytes()
    server = EmbeddedPostgres(data, place)
    try:
        dsn = server.start()
        assert await query(dsn, "SELECT 1") == 1
        assert await query(server.restart(), "SELECT 1") == 1
        nobody = pwd.getpwnam("nobody").pw_uid
        assert server.pid is not None
        assert set(psutil.Process(server.pid).uids()) == {nobody}
        assert capabilities(server.pid) in (1 << 1, 1 << 2)
        assert data.stat().st_uid == (place / "pg").stat().st_uid == nobody
        assert data.stat().st_mode & 0o777 == 0o700
        assert [modes(path) for path in bystanders] == before
        assert Path("/etc/passwd").read_bytes() == users
    finally:
        server.stop()
        shutil.rmtree(private)


@as_root
async def test_roots_programs_may_lie_in_a_closed_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = Path(tempfile.mkdtemp(prefix="kt-", dir=Path.home()))
    package = embedded_postgres.binaries().parents[1]
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, private / folder.name, symlinks=True)
    programs = private / package.name / "pginstall18" / "bin"
    monkeypatch.setattr(embedded_postgres, "binaries", lambda: programs)
    server = EmbeddedPostgres(private / "pg18", place)
    try:
        assert await query(server.start(), "SELECT 1") == 1
        assert private.stat().st_mode & 0o777 == 0o700
    finally:
        server.stop()
        shutil.rmtree(private)


@as_root
@pytest.mark.parametrize(("dropped", "kept"), [("dac_read_search", 1 << 1), ("net_raw", 1 << 2)])
async def test_root_of_a_container_keeps_the_one_capability_it_has(place: Path, dropped: str, kept: int) -> None:
    process = owner(place, "setpriv", f"--bounding-set=-{dropped}")
    try:
        pid = first_line(process)
        assert capabilities(pid) == kept
    finally:
        process.communicate()
    assert process.returncode == 0


@as_root
@pytest.mark.parametrize("dropped", ["dac_override", "setuid", "chown"])
def test_root_that_may_not_become_another_user_is_told_what_to_do(place: Path, dropped: str) -> None:
    process = owner(place, "setpriv", f"--bounding-set=-{dropped}")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert f"lacks CAP_{dropped.upper()}" in errors
    assert "DATABASE_URL" in errors


@as_root
async def test_a_normal_user_needs_nothing_special(place: Path) -> None:
    """Run as nobody; the capability lets this test's Python be read where it lies, wherever that is."""
    shutil.chown(place, "nobody")
    nobody = pwd.getpwnam("nobody").pw_uid
    able = "-all,+dac_read_search"
    process = owner(
        place,
        *("setpriv", "--securebits=+no_setuid_fixup", f"--reuid={nobody}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={able}", f"--ambient-caps={able}"),
    )
    pid = first_line(process)
    assert set(psutil.Process(pid).uids()) == {nobody}
    process.communicate()
    assert process.returncode == 0
    assert ended(pid)


@as_root
async def test_root_runs_a_users_cluster_as_that_user(server: EmbeddedPostgres, place: Path) -> None:
    server.start()
    server.stop()
    for path in (place / "pg18", *(place / "pg18").rglob("*")):
        os.chown(path, 1, 1, follow_symlinks=False)
    assert await query(server.start(), "SELECT 1") == 1
    assert server.pid is not None
    assert psutil.Process(server.pid).uids().effective == 1


@as_root
def test_root_refuses_a_cluster_of_root(server: EmbeddedPostgres, place: Path) -> None:
    (place / "pg18").mkdir()
    (place / "pg18" / "PG_VERSION").write_text("18\n")
    with pytest.raises(WrongOwner, match="chown"):
        server.start()
