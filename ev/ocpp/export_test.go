package ocpp

// DropSockets ends every connection, as a restart of the router would.
func (s *Server) DropSockets() {
	for _, st := range s.all() {
		st.hangUp()
	}
}

// Unpaced lifts the limit of frames per second, so that a benchmark measures
// work and not waiting.
func (s *Server) Unpaced() { s.rate = 1 << 30 }
