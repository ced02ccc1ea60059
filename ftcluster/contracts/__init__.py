"""Values and ports that travel between layers. Import the module that owns the name you need."""
