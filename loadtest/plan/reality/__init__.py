"""The planner held to reality: the same arrivals for a real service whose denoiser sleeps, and for the simulator.

loads       what arrives
service     the config that is deployed, and read by the planner
measure     the service under a load: latencies, replicas, durations of starts
recording   what was measured, as JSON; its simulation, and both side by side
"""
