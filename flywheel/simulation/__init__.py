"""A product that lives in a simulated month: its users, the engine that answers them, the clock.

    world      what people ask, what they want, how they react, and what happens on which day
    engine     the one fake: versions that know what their training pairs taught them
    front      replicas behind a load balancer, each following the deployments
    month      lives day after day on the real ledger, curation, gate, rollout and loop

Shipped because it is how the loop can be tried without waiting for weeks:
`flywheel simulate` prints a month. The engine stands at `flywheel.loop.wheel`, the loop's only
seam; everything else is what runs on a box.
"""
