"""Figures, each a ratio to a named baseline measured in the same run.

startup.py   time to the first MCP answer, and memory, beside a bare SDK server
finetune.py  a fine-tune as a job, beside the same recipe run bare
jobs.py      claiming, launching and starting a job, beside bare SQLite and a bare subprocess
bare_mcp.py  the bare SDK server
root/        the tool and the recipe that jobs.py launches
"""
