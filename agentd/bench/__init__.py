"""Figures, each beside a named baseline measured in the same run, or beside what is stated.

eval.py      rows per second of an evaluation, beside a bare asynchronous client
startup.py   time to the first MCP answer, and memory, beside a bare SDK server
mcp.py       a tool call by one client and by 16, and the stdio proxy's first answer, beside bare SDK servers
capture.py   a request whose texts are kept, beside one whose texts are not
gateway.py   a chat request through the gateway, beside the endpoint, a bare pass-through and Portkey
retrieval.py quality and pace of search on BEIR collections, beside rank fusion on whole documents
finetune.py  a fine-tune as a job, beside the same recipe run bare
router.py    a router learned from examples, beside length, chance and an oracle
verdicts.py  how often verdicts err, and whether planned rows are enough, by simulation
jobs.py      claiming, launching and starting a job, beside bare SQLite and a bare subprocess
bare_mcp.py  the bare SDK server
bare_gateway.py  the bare pass-through
beir.py      collections in BEIR's layout, and nDCG, recall and MRR of rankings
retriever_process.py  the shipped retriever and ingest, as processes
slow_endpoint.py  what eval.py and gateway.py ask
root/        the tool and the recipe that jobs.py launches; the recipe that retrieval.py compares with
"""
