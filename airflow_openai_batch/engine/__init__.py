"""The engine: rows become requests, requests become batches, batches become results.

It knows nothing of Airflow. It is handed a client for OpenAI, a path for its job store and the time,
and can be driven from a notebook as well as from a task. Read the modules in the order in which a row travels:

1. ``source``    rows in, as Arrow record batches (``records``), with the version of where they came from
2. ``template``  rows become the canonical bodies of requests, column by column (``splice``, ``escape``, ``pieces``,
   ``values``); ``schema`` makes their answers strict (``typed``)
3. ``shard``     ``requests`` are cut into shards within the API's limits (``endpoints``, ``open_shard``, ``parts``);
   ``submit`` plans a job
4. ``store``     the job's directory: numbered snapshots made by exclusive create, everything else write-once
5. ``api``       the verbs of OpenAI's API and the ways in which a call can go wrong
6. ``machine``   states, facts, the transition table, ``plan()`` and ``wake()``: pure; ``queue`` is who may enter
7. ``perform``   one action becomes a fact; ``create`` is the paid one, ``action`` what an error means
8. ``advance``   load the snapshot, plan, perform (several at once: ``parallel``), commit; until ``Wait``, ``Done`` or
   ``Held``
9. ``parse``     one output line becomes an outcome: the ``usual`` one at speed, any bytes with care (``answers``)
10. ``harvest``  both files of a batch become one outcome part in row order (``lines``, ``reading``, ``outcomes``,
    ``fields``); ``rounds`` asks again
11. ``results``  rows and outcomes, merged as streams (``merge``), go through ``columns`` into a ``sink``
12. ``report``   counts become a summary, and thresholds a verdict; ``standing`` makes of a job the
    ``progress`` that people see (``rate``: how fast), ``detail`` its shards, ``telling`` their text

What is slow beside the main thread, reading ahead and writing behind, is in ``background``. Whoever wants to watch is
told of each action and each committed fact through ``observer``.
Facts change state, plan names actions, performing an action yields facts. Nothing else moves a job.
"""
