"""The pure core: values in, values out; no await, clock, files or network.

Glossary:

* *Toolpack*: packaged MCP tool servers, what they need, and tasks (`manifest`).
* *Server*: one MCP server of a toolpack; *Tool*: one operation it offers (`catalog`).
* *Policy*, *Rule*, *Decision*: who may call what, with which arguments (`policy`, `decisions`).
* *ToolCall*, *Outcome*: one call and how it ended (`calls`).
* *Session*: identity, policy and budgets of one caller (`session`).
* *Episode*, *Task*, *Rubric*, *Check*: a session with a task and what scores it (`episode`, `rubric`).
* *Ledger record*: the line that says what was decided or what came of it (`records`).
"""
