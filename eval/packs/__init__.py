"""What is asked at a gate, and whether that is less than it was.

`history` holds the configured packs against those that an alias is bound to, `strictness` says in
what way one pack is looser than another, `failures` finds the rows of a set of past failures,
`plan` puts together what is asked. What a pack is stands in `ledger.packs`.
"""
