"""Checks the sandbox of the photo decoder by decoding a picture in it."""

import sys

from serve_app.cli.doctor.finding import Finding, fail, ok, warn
from serve_app.errors import ImageUrlError
from serve_app.photos.decode import PhotoSettings
from serve_app.photos.decoder_pool import DecoderProcess
from serve_app.photos.sample import sample_photo
from serve_app.sandbox.process import SandboxLostError, SandboxSettings, SandboxStartError
from serve_app.sandbox.syscall_filter import is_restricted

PATIENCE_S = 30.0  # this is about whether, not how soon
REMEDY = "apt-get install libseccomp2, and let the container's own seccomp profile allow `seccomp` (Docker's does)."


def check_sandbox(limits: PhotoSettings, settings: SandboxSettings) -> Finding:
    """Whether a child process decodes a picture, within PATIENCE_S, and is under seccomp."""
    try:
        process = DecoderProcess(limits, settings.model_copy(update={"large_timeout_s": PATIENCE_S}))
    except OSError as error:
        return fail("sandbox", f"no child process starts: {error.strerror}", "Raise the limit of processes.")
    try:
        process.ask(sample_photo().read_bytes())
        return judge_sandbox(sys.platform, restricted=sys.platform == "linux" and is_restricted(process.pid))
    except (SandboxLostError, SandboxStartError, ImageUrlError) as error:
        return fail("sandbox", f"no photo can be decoded: {error}", "Raise decoder.max_memory_bytes.")
    finally:
        process.end()


def judge_sandbox(platform: str, *, restricted: bool) -> Finding:
    """`platform` is that of `sys`, `restricted` whether seccomp applies; its absence is a warning on Linux only."""
    if restricted:
        return ok("sandbox", "decoders open nothing and make no other system calls than they need (seccomp)")
    if platform != "linux":
        return ok("sandbox", "decoders open nothing; seccomp, for their other system calls, is Linux's alone")
    return warn("sandbox", "decoders open nothing, but may make other system calls: no seccomp here", REMEDY)
