"""OAuth 2.1 resource server: tokens of configured issuers, their keys, and what a client is told of both.

* *Issuer*: an authorization server the operator trusts (`IssuerSettings`, from the auth file).
* *Keys*: its public keys, fetched from its JWKS address and nowhere else (`keys`).
* *Token*: a JWT that one of them signed for this gateway; it names a principal (`tokens`).
* *Resource metadata*: where a client without a token is sent to (RFC 9728, `resource`).

Issues nothing, stores nothing, forwards no token to anybody.
"""
