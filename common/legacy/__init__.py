"""What the seven scripts share: one topic a module, imports in one direction, nothing that tells a task's story."""
