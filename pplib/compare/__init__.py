"""Two runs or more side by side: what they ran on, whether one confirms the other, and what changed."""
