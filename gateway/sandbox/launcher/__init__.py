"""The launcher: a small single-threaded program beside the gateway that makes sandboxes.

It is never imported by the gateway process: it runs as `python -I -S` and may use the standard
library only. A fork of this small process costs a millisecond; and because it has one thread,
`--die-with-parent` (which follows a thread) ends every sandbox with it. It ends when its socket
to the gateway does.

*Stage*: an empty folder that trees are assembled on, inside private mount namespaces.
*Pin*: a mount namespace held by descriptors only; when the last one closes, its files are gone.
*Jail*: the finished tree, the unprivileged uid and the `bwrap` command line of one sandbox.
*Group*: the control groups of one sandbox.
*Template*: a Python server preloaded in an outer sandbox of its own; a *fork* of it is one session's sandbox.
"""
