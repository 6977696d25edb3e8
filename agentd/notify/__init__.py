"""Telling people: waiting approvals, failed jobs, spent budgets, a full disk.

notices.py   which entries of the journal are told, and in what words: a pure function
outbox.py    the port, and what carries notices through it: once each, in order, however often it takes
webhook.py   adapter: a signed POST
command.py   adapter: a program of this machine
"""
