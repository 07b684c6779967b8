package ocpp

// DropSockets ends every connection, as a restart of the router would.
func (s *Server) DropSockets() {
	for _, st := range s.all() {
		st.hangUp()
	}
}
