"""A `Progress` that records what it receives."""

from edgeexit.progress import Progress


class RecordedProgress(Progress):
    def __init__(self):
        self.steps = []
        self.advances = []
        self.total = None
        self.messages = []
        self.warnings = []

    @property
    def done(self):
        return sum(self.advances)

    def step(self, name):
        self.steps.append(name)

    def advance(self, amount=1, total=None):
        self.advances.append(amount)
        self.total = total

    def message(self, text):
        self.messages.append(text)

    def warning(self, text):
        self.warnings.append(text)
