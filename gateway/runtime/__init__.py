"""The runtime: everything with input and output between a front and a tool server.

`gateway` is the door: sessions are opened there and every call goes through `Gateway.call`.
`call_path` carries out what the pure session machine commands; `leases` and `upstream` hold the
servers, `lease_pool` keeps some ready, `ledger` makes records durable, `packs` and `packages` bring
toolpacks up, `episodes` and `checks` play and score tasks.
"""
