"""How many GPUs a load needs, and what they cost: the service in simulated time.

simulation    a load against the service, from arrivals to answers; `clock` is the heap of what happens when
fleet_simulation   the same for many replicas, with requests as arrays: `replica_table` has how long images take in a
              few exact replicas, `tabled_generators` draw from it, `fleet_calls` and `fleet_slots` are who has what
scaled_service, scaled_generators   what both have in common
generators    Serve's handle with the router's choice, and the calls in each `replica` (models, engine)
engine        DiffusionEngine's loop around the real scheduler; steps that are alike are made at once
fleet         GPU nodes and replicas: starts, drains, deaths, what is paid
autoscaling   Serve's autoscaler around the service's policies; `cpu_replicas` are ingresses and workers
queue         whose task a worker takes next
loads         requests, drawn or from a trace, which `trace` writes; `curves` are step times
service       what a config file deploys, durations of starts, prices; all together are a `scenario`
reality       a real service and the simulator with the same arrivals; `service_metrics` are step times of a service
ledger        what became of the requests; `answers` are its figures, `page` shows them, `search` improves them
oracle        the cheapest fleet that knows the load, which policies are held against
"""
