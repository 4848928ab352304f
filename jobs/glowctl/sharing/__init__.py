"""Models for other people: a card that describes one, and folders and hubs that carry it with its card."""
