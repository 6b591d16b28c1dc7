"""Exact online convolution: what a convolutional mixer decodes with when its filter has no recurrence."""

from .online import OnlineState, init_online, online_prefill, online_step

__all__ = ["OnlineState", "init_online", "online_prefill", "online_step"]
