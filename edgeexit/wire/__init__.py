"""What crosses the network: messages, topics and the MQTT session."""
