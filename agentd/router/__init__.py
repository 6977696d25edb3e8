"""From a name to an answer.

catalog.py   models and aliases: the config file laid over what is stored
dispatch.py  one request: resolve the name, reserve, ask the endpoint, settle, remember why
"""
