"""What every policy is made of: views, blocks, fills, routers, and the settings they change."""
