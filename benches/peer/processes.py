"""Contestants as processes: runs them, checks what they need, and summarises several runs."""
import ctypes.util
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

# memory that was freed is kept for the next step and in large pages: without this torch waits for fresh pages in every step
JEMALLOC_SETTINGS = "oversize_threshold:1,background_thread:false,metadata_thp:auto,dirty_decay_ms:-1,muzzy_decay_ms:-1"


def fail(message):
    """Ends with status 2: nothing was compared. Status 1 is for a comparison that does not hold."""
    print(message, file=sys.stderr)
    sys.exit(2)


def run(command, environment=None, cwd=None):
    """stdout, stderr, and the largest resident set in bytes."""
    command = [str(part) for part in command]
    # files, not pipes: nobody reads until the process has ended, and its own resource usage needs wait4
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(command, stdout=output, stderr=errors, env={**os.environ, **(environment or {})}, cwd=cwd)
        except OSError as error:
            fail(f"{command[0]} cannot be run: {error.strerror}")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (output, errors):
            file.seek(0)
        if process.returncode != 0:
            fail(f"{' '.join(command)}\nexited with {process.returncode}\n{errors.read()}")
        return output.read(), errors.read(), usage.ru_maxrss * 1024


def add_flags(parser):
    """Flags of every comparison."""
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers' packages")
    parser.add_argument("--threads", type=int, default=os.cpu_count())


def add_model_flags(parser):
    """Flags of the comparisons that run `align-cli`."""
    add_flags(parser)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--binary", type=pathlib.Path, default=REPOSITORY / "target/release/align-cli")


def need_binary(binary):
    if not os.access(binary, os.X_OK):
        fail(f"{binary} is not there or cannot be run: build it with `cargo build --release`, or name it with --binary")


def need_files(*paths):
    for path in paths:
        if not path.exists():
            fail(f"{path} does not exist")


def need_packages(python, packages):
    """Asks the interpreter before the other contestants spend minutes."""
    ask = f"import importlib.util as u; print(*[name for name in {list(packages)!r} if u.find_spec(name) is None])"
    output, _, _ = run([python, "-c", ask])
    if output.strip():
        fail(f"{python} has no {', '.join(output.split())}: give the interpreter of the peers' environment with --python\n"
             "    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0")


def jemalloc(given):
    """The environment that puts a process on jemalloc."""
    path = given or find_jemalloc()
    if path is None:
        fail("libjemalloc.so.2 is not found: install it (Debian: libjemalloc2), name it with --jemalloc, "
             "or choose --contestants without tuned and torch")
    # a library that cannot be loaded is only warned about by the loader
    need_files(pathlib.Path(path))
    return {"LD_PRELOAD": str(path), "MALLOC_CONF": JEMALLOC_SETTINGS}


def find_jemalloc():
    names = [name for name in (ctypes.util.find_library("jemalloc"), "libjemalloc.so.2") if name]
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"
    folders = [f"/usr/lib/{multiarch}", f"/lib/{multiarch}", "/usr/lib64", "/usr/lib", "/usr/local/lib"]
    places = (pathlib.Path(folder) / name for name in names for folder in folders)
    return next((place for place in places if place.exists()), None)


def in_turn(names, number):
    """The order of a round: everyone is first once, so that nobody always has the warmer cache."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def spread(values):
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine(threads):
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {threads} threads"


def commit():
    command = ["git", "-C", REPOSITORY, "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
