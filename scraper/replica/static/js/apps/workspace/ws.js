// The workspace that the button "Volver" returns to is the search form itself here.
function regresaWorkspace() {
  window.location.href = '/cl-ti-itmrconsruc/FrameCriterioBusquedaWeb.jsp';
}
