"""From a name to an answer.

catalog.py   models and aliases: the config file laid over what is stored
dispatch.py  one request: resolve the name, ask the endpoint, pass the answer on
metering.py  what it costs: held before it leaves, booked and recorded after
"""
