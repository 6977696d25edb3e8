"""agentd: an agentic orchestrator for LLM engineers, served over MCP."""

__version__ = "0.1.0"
