import asyncio
import ctypes.util
import gc
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from deployments.types import Photo
from loadtest.bench.photos.__main__ import largest_photos, need
from loadtest.bench.photos.heic import TILE, heic_grid
from serve_app.errors import ImageUrlError
from serve_app.photos.decode import PhotoSettings, decode_photo
from serve_app.photos.decoder_pool import DecoderProcess, PhotoDecoder
from serve_app.photos.sample import sample_photo
from serve_app.sandbox.process import KEPT_VARIABLES, MALLOC, SandboxLostError, SandboxSettings, SandboxStartError
from tests.support.hostile_pictures import encoded, hostile_pictures, large_jpeg_of_many_scans, noise
from tests.support.photos import insightface_images

LIMITS = PhotoSettings()
PATIENT = SandboxSettings(
    timeout_s=30, large_timeout_s=60
)  # for tests that are not about time, on a machine that may be busy
PICTURE = encoded(noise(), "PNG")
INSIGHTFACE = {"mask_black.jpg": "decoded", "t1.jpg": "decoded"}
SCIKIT_IMAGE = {  # grey, with a palette, with alpha, 16 bits, JPEG and what is neither
    "astronaut.png": "decoded",
    "camera.png": "decoded",
    "cell.png": "decoded",
    "chessboard_GRAY.png": "decoded",
    "horse.png": "decoded",
    "logo.png": "decoded",
    "microaneurysms.png": "decoded",
    "phantom.png": "decoded",
    "retina.jpg": "decoded",
    "rocket.jpg": "decoded",
    "multipage_rgb.tif": "not_an_image",
    "no_time_for_that_tiny.gif": "not_an_image",
}
SHIPPED = SCIKIT_IMAGE | INSIGHTFACE
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="the limits and /proc of Linux")

# The decoder itself turns warnings of Pillow off; pytest puts its own filters in place of that.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


class Decoder:
    """A `PhotoDecoder` for tests that are not coroutines."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._others = children()
        self.inner = PhotoDecoder(LIMITS, settings)

    @property
    def processes(self) -> list[psutil.Process]:
        return [child for child in children() if child not in self._others]

    def decode(self, data: bytes) -> Photo:
        return asyncio.run(self.inner.decode(data))

    def reason(self, data: bytes) -> str:
        with pytest.raises(ImageUrlError) as caught:
            self.decode(data)
        return str(caught.value.data["reason"])


@contextmanager
def running(settings: SandboxSettings = PATIENT) -> Iterator[Decoder]:
    decoder = Decoder(settings)
    try:
        yield decoder
    finally:
        asyncio.run(decoder.inner.close())
        assert decoder.processes == []


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """One for all tests that break nothing."""
    decoder = Decoder(PATIENT)
    yield decoder
    asyncio.run(decoder.inner.close())


@pytest.fixture
def process() -> Iterator[DecoderProcess]:
    process = DecoderProcess(LIMITS, PATIENT)
    yield process
    process.end()


def children() -> list[psutil.Process]:
    """The decoder processes of this one that have not ended."""
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "serve_app.photos.decoder_pool" in child.cmdline()]


# Pictures


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_a_child_gives_the_pixels_that_this_process_would_decode(decoder: Decoder, image_format: str) -> None:
    data = encoded(noise(width=1900, height=1000), image_format)
    photo = decoder.decode(data)
    assert photo.pixels.shape == (808, 1536, 3)
    assert np.array_equal(photo.pixels, decode_photo(data, LIMITS).pixels)
    assert not photo.pixels.flags.writeable


def test_a_child_decodes_heic_of_one_picture_and_of_tiles(decoder: Decoder) -> None:
    whole = TILE.read_bytes()
    for data, shape in ((whole, (512, 512, 3)), (heic_grid(whole, 2, 3), (1024, 1536, 3))):
        photo = decoder.decode(data)
        assert photo.pixels.shape == shape
        assert np.array_equal(photo.pixels, decode_photo(data, LIMITS).pixels)


def test_a_child_tells_that_a_photo_lost_its_end(decoder: Decoder) -> None:
    data = encoded(noise(width=512, height=512), "JPEG")
    assert decoder.decode(data).warnings == ()
    assert decoder.decode(data[: int(len(data) * 0.99)]).warnings == ("clipped",)


def test_a_large_picture_gets_more_time_and_leaves_a_process_to_the_others() -> None:
    large = encoded(Image.new("L", (8192, 6000), 100), "PNG", compress_level=1)

    async def main(decoder: PhotoDecoder) -> None:
        # Its processes run by then: to start one takes longer than the large picture on a busy machine.
        await asyncio.gather(*(decoder.decode(PICTURE, f"first {number}") for number in range(PATIENT.processes)))
        asked = [asyncio.create_task(decoder.decode(large, f"owner {number}")) for number in range(3)]
        small = asyncio.create_task(decoder.decode(PICTURE, "another"))
        done, _ = await asyncio.wait([*asked, small], return_when="FIRST_COMPLETED")
        assert done == {small}
        assert {photo.pixels.shape for photo in await asyncio.gather(*asked)} == {(1125, 1536, 3)}

    with running(PATIENT) as decoder:
        asyncio.run(main(decoder.inner))
    with running(PATIENT.model_copy(update={"large_timeout_s": 0.01})) as decoder:
        assert decoder.reason(large) == "too_costly"
        assert decoder.decode(PICTURE).pixels.shape == (64, 64, 3)


def test_a_refusal_is_the_same_as_in_this_process(decoder: Decoder) -> None:
    for data in (b"text", PICTURE[:100], encoded(Image.new("L", (9, 9)), "PNG"), encoded(noise(), "BMP")):
        with pytest.raises(ImageUrlError) as here:
            decode_photo(data, LIMITS)
        with pytest.raises(ImageUrlError) as there:
            decoder.decode(data)
        assert there.value.data == here.value.data


def test_many_photos_share_few_processes_and_none_gets_anothers_pixels() -> None:
    pictures = [encoded(Image.new("RGB", (64, 64), (value, 0, 0)), "PNG") for value in range(40)]

    async def main(decoder: PhotoDecoder) -> list[Photo]:
        return await asyncio.gather(*map(decoder.decode, pictures))

    with running() as decoder:
        photos = asyncio.run(main(decoder.inner))
        assert [photo.pixels[0, 0, 0] for photo in photos] == list(range(40))
        assert 1 <= len(decoder.processes) <= PATIENT.processes


@pytest.mark.slow
def test_every_hostile_picture_decodes_or_is_refused() -> None:
    pictures = hostile_pictures()
    assert len(pictures) >= 300
    with running(SandboxSettings()) as decoder:
        outcomes = {name: outcome(decoder, data) for name, data in pictures.items()}
        assert decoder.decode(PICTURE).pixels.shape == (64, 64, 3)
    assert {"decoded", "broken", "not_an_image", "too_many_pixels", "too_small"} <= set(outcomes.values())
    usable = ("jpeg", "jpeg cmyk", "png 16 bit", "png animated", "webp animated", "mpo", "jpeg followed by zip")
    for name in (*usable, "avif", "avif rgba", "avif animated", "heic", "heic turned", "heic of tiles"):
        assert outcomes[name] == "decoded", name


def outcome(decoder: Decoder, data: bytes) -> str:
    try:
        pixels = decoder.decode(data).pixels
    except ImageUrlError as error:
        return str(error.data["reason"])
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert max(pixels.shape) <= LIMITS.max_side
    return "decoded"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_picture_from_an_installed_package_decodes_or_is_refused(decoder: Decoder, name: str) -> None:
    data = (insightface_images() if name in INSIGHTFACE else sample_photo().parent) / name
    assert outcome(decoder, data.read_bytes()) == SHIPPED[name]


# Limits


def test_a_picture_that_makes_its_decoder_spin_is_refused() -> None:
    with running(SandboxSettings(processes=1, timeout_s=0.3)) as decoder:
        assert decoder.reason(large_jpeg_of_many_scans()) == "too_costly"


def test_a_decoder_that_does_not_answer_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with running(SandboxSettings(processes=1, timeout_s=3)) as decoder:
        decoder.decode(PICTURE)
        (first,) = decoder.processes
        first.suspend()
        assert decoder.reason(PICTURE) == "too_costly"
        assert "no answer within 3 s" in caplog.text
        assert decoder.decode(PICTURE).pixels.shape == (64, 64, 3)
        assert first not in decoder.processes


@LINUX_ONLY
def test_a_picture_that_takes_too_much_memory_is_refused_and_its_decoder_goes_on() -> None:
    large = encoded(noise(width=4000, height=3000), "PNG", compress_level=1)
    with running(SandboxSettings(processes=1, timeout_s=30, max_memory_bytes=25_000_000)) as decoder:
        assert decoder.decode(PICTURE).pixels.shape == (64, 64, 3)
        before = decoder.processes
        assert decoder.reason(large) == "too_costly"
        assert decoder.decode(PICTURE).pixels.shape == (64, 64, 3)
        assert decoder.processes == before


@LINUX_ONLY
@pytest.mark.slow
def test_the_largest_photos_that_are_allowed_decode_in_the_memory_of_a_process() -> None:
    patient = SandboxSettings(large_timeout_s=300)
    for largest in largest_photos(LIMITS):
        assert need(largest, patient, LIMITS).peak_mb < 0.95 * patient.max_memory_bytes / 1e6, largest.name


@LINUX_ONLY
def test_a_process_gives_the_memory_of_a_photo_back(process: DecoderProcess) -> None:
    process.ask(PICTURE)
    idle = memory_mb(process, "VmRSS")
    for data in (encoded(noise(width=4000, height=4000), "WEBP", method=0), heic_grid(TILE.read_bytes(), 6, 8)):
        process.ask(data)
        assert memory_mb(process, "VmRSS") - idle < 50


def memory_mb(process: DecoderProcess, name: str) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000


def run_with_decoder(program: str) -> subprocess.CompletedProcess[str]:
    """A Python program that begins with everything of the decoder's module."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"from serve_app.sandbox.process import *\nfrom serve_app.photos.decoder_pool import *\n{program}",
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@LINUX_ONLY
def test_a_process_that_computes_for_too_long_ends_even_if_nobody_watches_it() -> None:
    done = run_with_decoder("bound_cpu_time(0.1)\nwhile True: pass")
    assert done.returncode == -signal.SIGXCPU


@LINUX_ONLY
def test_megabytes_of_fill_bytes_are_looked_through_once() -> None:
    program = "bound_cpu_time(8)\ntry: decode_photo(b'\\xff\\xd8' + b'\\xff' * 3_000_000, PhotoSettings())"
    assert run_with_decoder(f"{program}\nexcept ImageUrlError: print('refused')").stdout == "refused\n"


@LINUX_ONLY
@pytest.mark.parametrize(
    ("deed", "error"),
    [
        ("open('/etc/hostname')", "OSError"),
        ("os.close(0); open('/etc/hostname')", "OSError"),
        ("os.close(0); socket.socket()", "OSError"),
        ("socket.socket()", "OSError"),
        ("subprocess.run(['/bin/true'])", "OSError"),
        ("bytearray(60_000_000)", "MemoryError"),
    ],
)
def test_a_confined_process_opens_nothing_and_gets_no_more_memory(deed: str, error: str) -> None:
    program = f"enter_sandbox(50_000_000)\nbytearray(40_000_000)\ntry:\n    {deed}\nexcept {error}: print('refused')"
    assert run_with_decoder(program).stdout == "refused\n"


@LINUX_ONLY
@pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="no libseccomp.so.2 here")
@pytest.mark.parametrize(
    ("deed", "error"),
    [
        ("open('/etc/hostname')", "PermissionError"),
        ("os.close(0); socket.socket()", "PermissionError"),
        ("os.fork()", "OSError"),
        ("threading.Thread(target=print).start()", "RuntimeError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("os.kill(os.getppid(), 0)", "PermissionError"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "PermissionError"),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))", "ValueError"),
        ("resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))", "PermissionError"),
        ("mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)", "PermissionError"),
        ("call('ptrace', 0, 0, 0, 0)", "PermissionError"),
        ("call('process_vm_readv', os.getppid(), 0, 0, 0, 0, 0)", "PermissionError"),
        ("call('unshare', 0x10000000)", "PermissionError"),
    ],
)
def test_hostile_code_in_a_confined_process_gets_no_system_call_that_pictures_do_not_need(
    deed: str, error: str
) -> None:
    program = f"""
import ctypes, mmap, resource, signal, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
enter_sandbox(50_000_000)
try:
    {deed}
    print('done')
except {error}: print('refused')
"""
    assert run_with_decoder(program).stdout == "refused\n"


@LINUX_ONLY
@pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="no libseccomp.so.2 here")
@pytest.mark.parametrize(
    ("deed", "outcome"),
    [
        ("threading.Thread(target=lambda: print('started')).start()", "started"),
        ("os.fork()", "refused"),
        ("os.execv('/bin/true', ['true'])", "refused"),
        ("threading.Thread(target=lambda: print(attempt(lambda: open('/etc/hostname')))).start()", "refused"),
    ],
)
def test_a_process_that_may_start_threads_starts_nothing_else_and_they_may_no_more(deed: str, outcome: str) -> None:
    program = f"""
import threading
def attempt(deed):
    try: deed()
    except OSError: return 'refused'
enter_sandbox(50_000_000, threads=True)
try: {deed}
except OSError: print('refused')
"""
    assert run_with_decoder(program).stdout == f"{outcome}\n"


@LINUX_ONLY
def test_a_confined_process_that_aborts_dies_of_that() -> None:
    assert run_with_decoder("enter_sandbox(50_000_000)\nos.abort()").returncode == -signal.SIGABRT


@LINUX_ONLY
def test_where_there_is_no_libseccomp_the_other_limits_hold() -> None:
    program = "sys.modules['pyseccomp'] = None\nenter_sandbox(50_000_000)\nos.getppid()\ntry: open('/etc/hostname')"
    assert run_with_decoder(f"{program}\nexcept OSError: print('refused')").stdout == "refused\n"


@LINUX_ONLY
def test_a_child_has_no_secrets_no_files_and_no_ray(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("FACE_AVATAR_BROKER__URL", "redis://:secret@broker")
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        process = DecoderProcess(LIMITS, PATIENT)
        request.addfinalizer(process.end)
        process.ask(PICTURE)
        at = Path(f"/proc/{process.pid}")
        names = {entry.partition(b"=")[0] for entry in (at / "environ").read_bytes().split(b"\0") if entry}
        assert names <= {name.encode() for name in ("PYTHONPATH", "OPENBLAS_NUM_THREADS", *MALLOC, *KEPT_VARIABLES)}
        assert sorted(fd.name for fd in (at / "fd").iterdir()) == ["0", "1", "2"]
        assert "_raylet" not in (at / "maps").read_text()
        assert psutil.Process(process.pid).num_threads() == 1


# Processes that die, or never start


def test_a_child_that_dies_on_a_picture_is_lost(process: DecoderProcess) -> None:
    process.ask(PICTURE)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(SandboxLostError, match="exit status -9"):
        process.ask(PICTURE)
    assert process.has_ended


def test_a_child_that_died_while_it_had_nothing_to_do_is_no_pictures_fault(poll: Callable[..., Any]) -> None:
    with running(PATIENT.model_copy(update={"processes": 1})) as decoder:
        decoder.decode(PICTURE)
        (first,) = decoder.processes
        first.kill()
        poll(lambda: first.status() == psutil.STATUS_ZOMBIE)
        assert decoder.decode(PICTURE).pixels.shape == (64, 64, 3)


def test_children_start_before_the_first_photo_where_they_are_asked_to(poll: Callable[..., Any]) -> None:
    with running() as decoder:
        assert decoder.processes == []
        decoder.inner.start()
        poll(lambda: len(decoder.processes) == PATIENT.processes)
        started = decoder.processes
        decoder.decode(PICTURE)
        assert decoder.processes == started


def test_a_child_that_cannot_be_started_is_our_error_and_the_next_photo_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running() as decoder:
        for program, error in (("/nonexistent/python", FileNotFoundError), ("/bin/false", SandboxStartError)):
            monkeypatch.setattr(sys, "executable", program)
            for _ in range(PATIENT.processes + 1):
                with pytest.raises(error):
                    decoder.decode(PICTURE)
            monkeypatch.undo()
        assert decoder.decode(PICTURE).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize(
    "answer",
    [
        r"\0\0\0\1\377\377\377\377",  # more pixels than a photo has
        r"\0\0\0\0\377\377\377\377",  # a refusal of gigabytes
        r"\0\0\0\0\0\0\0\4{}[]",  # one that is no JSON
        r"\0\0\0\0\0\0\0\2{}",  # one without a message
        r"\0\0\0\0\0\0\0\11{\"a\":\"b\"}",
        r"\0\0\0\20\0\0\0\20\377",  # warnings that there are none of
        r"\0\0\0\20\0\0\0\20\0abc",  # fewer pixels than said
        r"\0\0",
    ],
)
def test_the_nonsense_of_a_child_in_strange_hands_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nprintf '\\0\\0\\0\\0\\0\\0\\0\\0'\nhead -c 100 >/dev/null\nprintf '{answer}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    process = DecoderProcess(LIMITS, PATIENT)
    with pytest.raises(SandboxLostError):
        process.ask(PICTURE)
    assert process.has_ended


@LINUX_ONLY
def test_a_child_ends_when_the_process_that_started_it_dies(poll: Callable[..., Any]) -> None:
    program = """
process = DecoderProcess(PhotoSettings(), SandboxSettings(timeout_s=30, large_timeout_s=30))
process.ask(sample_pictures()[1])
print(process.pid, flush=True)
os._exit(0)
"""
    pid = int(run_with_decoder(program).stdout)
    poll(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_client_that_leaves_does_not_disturb_the_next_one(decoder: Decoder) -> None:
    async def main() -> Photo:
        leaving = asyncio.create_task(decoder.inner.decode(encoded(noise(width=3000, height=2000), "JPEG")))
        await asyncio.sleep(0)
        leaving.cancel()
        return await decoder.inner.decode(PICTURE)

    assert asyncio.run(main()).pixels.shape == (64, 64, 3)


def test_a_closed_decoder_leaves_no_process_and_no_open_socket() -> None:
    with running() as decoder:
        decoder.decode(PICTURE)
    del decoder
    gc.collect()  # an open socket or a child that nobody waited for would warn


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="extra"):
        SandboxSettings(process=1)  # type: ignore[call-arg]
