"""Signal processing beside the main job: what Kapre offers and no model of this project needs."""
