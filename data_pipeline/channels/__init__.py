"""Numbers that a model says of stored tokens, beside the token store and in its order."""

from tracestill.data_pipeline.channels.channel import BUILT_IN, Channel
from tracestill.data_pipeline.channels.channels import Channels
from tracestill.data_pipeline.channels.writer import ChannelWriter

__all__ = ["BUILT_IN", "Channel", "ChannelWriter", "Channels"]
