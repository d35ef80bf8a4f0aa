"""`sandgate policy learn`: propose a policy from recorded calls. Prints it; installs nothing."""

from __future__ import annotations

from gateway.cli.options import FormatOption
from gateway.cli.output import Format, say, show
from gateway.cli.recordings import LogFolder, PackOption, facts_for, load_recording

__all__ = ["learn"]


def learn(log: LogFolder, pack: PackOption = None, form: FormatOption = Format.TEXT) -> None:
    """Print the least that recorded calls need as a policy on stdout, and how well it fits on stderr."""
    from gateway.core.policy.learning import learn as propose

    recording = load_recording(log)
    proposal = propose(recording, facts_for(recording, pack))
    show(form, proposal.wire(), proposal.text.rstrip("\n"))
    for line in proposal.summary():
        say(line)
