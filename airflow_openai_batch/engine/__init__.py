"""The engine: rows become requests, requests become batches, batches become results.

It knows nothing of Airflow. It is handed a client for OpenAI, a path for its job store and the time,
and can be driven from a notebook as well as from a task. Read the modules in the order in which a row travels:

1. ``source``    rows in, as Arrow record batches, with the version of where they came from
2. ``template``  a row becomes the canonical body of a request; ``schema`` makes its answer strict
3. ``shard``     requests are cut into shards within the API's limits; ``submit`` writes them down as a plan
4. ``store``     the job's directory: numbered snapshots made by exclusive create, everything else write-once
5. ``api``       the nine verbs of OpenAI's API and the four ways in which a call can go wrong
6. ``machine``   states, facts, the transition table, ``plan()`` and ``wake()``: pure
7. ``perform``   one action becomes facts
8. ``advance``   load the snapshot, plan, perform, commit; until ``Wait``, ``Done`` or ``Held``
9. ``parse``     one output line becomes an outcome: total, any bytes
10. ``harvest``  both files of a batch become one outcome part in row order
11. ``results``  rows and outcomes, merged shard by shard, stream into a ``sink``
12. ``report``   counts become a summary, and thresholds a verdict

Facts change state, plan names actions, performing an action yields facts. Nothing else moves a job.
"""
